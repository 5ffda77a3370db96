"""A Guest on KVM, run and broken out: the contract of launcher.api.Vcpu over KVM_RUN.

The danger is a break that comes between our last look at the flag and the processor's entry into the Guest:
the Guest may then compute for ever. Two facts answer it:

- The kick stays until it is taken, and ends KVM_RUN with EINTR before the first instruction when it came too
  early. It is a signal that this thread blocks: KVM_RUN opens the mask for it and closes it again by itself
  (KVM_SET_SIGNAL_MASK, api.rst 4.21), so it is still pending at the entry. Or it is kvm_run.immediate_exit, which
  KVM reads on entry, with a signal that is not blocked for a run that has begun (shared/breakers/immediate.py).
- The flag is set before the kick is sent. After EINTR without a flag the kick is taken *first* and the flag looked at
  *then*, once more: if it is not set, any break to come sends a kick of its own, after ours was taken.

So EINTR without the flag is a kick that outlived its break, or another signal, whose Python handler has run
by then: run again. The flag alone decides; `Broken` is never said without it.

A halted Guest sleeps here, not in KVM: there is no interrupt controller in the kernel, so HLT comes back to
us, and `breaker.wait()` sleeps until the same kick. Interrupts need no waking: this very thread raises them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from errno import EAGAIN, EINTR

from launcher.api import Boot, Broken, Died, Exit, Notify, Restart, Shutdown
from launcher.engines.hypercalls import (
    PORT_CRASH,
    PORT_NOTIFY,
    PORT_RESTART,
    PORT_SHUTDOWN,
    at_eip,
    crashed,
    irq_bit,
    lowest_irq,
    no_hypercall,
    outside,
)
from launcher.engines.kvm import abi
from launcher.engines.kvm.vm import Vm
from shared.breaker import INLINE, KICK_SIGNAL, Breaker
from shared.errors import UsageError
from shared.linux import ioctl, ioctl_or_errno
from shared.memory import GuestMemory

# What can stop a Guest that never leaves KVM_RUN by itself: nothing but a signal to its thread, or the kernel.
BREAKERS: tuple[str, ...] = ("signal", "immediate")

_BROKEN = Broken()
_SHUTDOWN = Shutdown()
_RESTART = Restart()

_EXIT_REASON = abi.Run.exit_reason.offset // 4
_WANT_WINDOW = abi.Run.request_interrupt_window.offset
_READY = abi.Run.ready_for_interrupt_injection.offset
_IF = abi.Run.if_flag.offset
_IO_HEAD = abi.Run.exit.offset // 8
_IO_DATA_OFFSET = (abi.Run.exit.offset + abi.RunIo.data_offset.offset) // 8


def _outl(port: int) -> int:
    # The first eight bytes of kvm_run.io (direction, size, port, count) as one word, for one comparison.
    return int.from_bytes(bytes(abi.RunIo(direction=abi.IO_OUT, size=4, port=port, count=1))[:8], "little")


_OUTL_NOTIFY = _outl(PORT_NOTIFY)
_OUTL_SHUTDOWN = _outl(PORT_SHUTDOWN)
_OUTL_CRASH = _outl(PORT_CRASH)
_OUTL_RESTART = _outl(PORT_RESTART)


class KvmVcpu:
    """One vCPU on KVM: made, run and closed by the thread that made `breaker`, which stays the caller's.

    Raises `UsageError` for a breaker that cannot stop it, and where KVM is missing, not allowed or broken.
    """

    def __init__(self, memory: GuestMemory, boot: Boot, breaker: Breaker, vm: Vm | None = None) -> None:
        """Take over `vm`, or open one."""
        if breaker.kind not in (*BREAKERS, INLINE):
            raise UsageError(
                f"engine kvm: breaker '{breaker.kind}' cannot stop a Guest that computes for ever, only a "
                f"signal to its thread can; use {', '.join(BREAKERS)}"
            )
        self._memory = memory
        self._breaker = breaker
        self._pending = 0  # one bit per irq
        self._is_halted = False
        with contextlib.ExitStack() as opened:
            self._vm = opened.enter_context(vm or Vm(memory, boot))
            self._fd = self._vm.vcpu_fd
            self._u8 = opened.enter_context(memoryview(self._vm.run_mapping))
            self._u32 = opened.enter_context(self._u8.cast("I"))
            self._u64 = opened.enter_context(self._u8.cast("Q"))
            _open_mask_for_kick(self._fd)
            self._opened = opened.pop_all()

    def run(self) -> Exit:
        """Run the Guest until it wants something or is broken out; a halted Guest stays inside."""
        breaker, fd, u8 = self._breaker, self._fd, self._u8
        while not breaker.is_set():
            # What kvm_run says of the Guest holds from its last exit until its next entry.
            if self._is_halted:
                if not (self._pending and u8[_IF]):
                    breaker.wait()
                    continue
                self._inject()
            elif self._pending and u8[_IF] and u8[_READY]:
                self._inject()
            # For what is left: KVM comes back as soon as the Guest lets interrupts in (api.rst 5).
            u8[_WANT_WINDOW] = 1 if self._pending else 0
            result = ioctl_or_errno(fd, abi.RUN)
            if result == 0:
                if (wanted := self._left_for()) is not None:
                    return wanted
            elif result in (-EINTR, -EAGAIN):
                if breaker.is_set():
                    # The kick stays, and ends the next entry: when nobody waits. To take it here would cost a wake-up
                    # 5 us: the first time that anything is done after an exit, it takes ten times as long as the next.
                    return _BROKEN
                breaker.take_kick()
            else:
                return self._died(f"KVM_RUN: {os.strerror(-result)}")
        return _BROKEN

    def interrupt(self, irq: int) -> None:
        """Have the Guest take vector 32 + `irq` as soon as it lets interrupts in; the lowest comes first."""
        self._pending |= irq_bit(irq)

    def breaker(self) -> Breaker:
        """Return what breaks this vCPU out."""
        return self._breaker

    def close(self) -> None:
        """Give back the vCPU, the VM and all their fds; once closed, closing again does nothing."""
        self._opened.close()

    def _inject(self) -> None:
        vector, still_pending = lowest_irq(self._pending)
        interrupt = abi.Interrupt(irq=vector)
        ioctl(self._fd, abi.INTERRUPT, ctypes.addressof(interrupt), name="KVM_INTERRUPT")
        self._pending = still_pending
        self._is_halted = False
        # KVM holds one at a time, and says at the next exit whether it can take another.
        self._u8[_READY] = 0

    def _left_for(self) -> Exit | None:
        """Read off kvm_run why the Guest left; None says: nothing for the Launcher."""
        reason = self._u32[_EXIT_REASON]
        if reason == abi.EXIT_IO:
            return self._hypercall()
        if reason == abi.EXIT_HLT:
            self._is_halted = True
            return None
        if reason == abi.EXIT_IRQ_WINDOW_OPEN:
            return None
        return self._died(self._describe(reason))

    def _hypercall(self) -> Exit:
        call = self._u64[_IO_HEAD]
        eax = self._u32[self._u64[_IO_DATA_OFFSET] // 4]
        if call == _OUTL_NOTIFY:
            return Notify(eax)
        if call == _OUTL_SHUTDOWN:
            return _SHUTDOWN
        if call == _OUTL_RESTART:
            return _RESTART
        if call == _OUTL_CRASH:
            return crashed(self._memory, eax)
        return self._died(self._describe(abi.EXIT_IO))

    def _died(self, what: str) -> Died:
        return at_eip(what, self._vm.eip())

    def _describe(self, reason: int) -> str:
        exit_ = abi.Run.from_buffer_copy(self._u8[: ctypes.sizeof(abi.Run)]).exit
        if reason == abi.EXIT_IO:
            io = exit_.io
            return no_hypercall(io.port, io.size, count=io.count, is_out=io.direction == abi.IO_OUT)
        if reason == abi.EXIT_MMIO:
            mmio = exit_.mmio
            return outside(mmio.phys_addr, mmio.len, self._memory.size, is_write=bool(mmio.is_write))
        if reason == abi.EXIT_SHUTDOWN:
            return "triple fault"
        if reason == abi.EXIT_FAIL_ENTRY:
            why = exit_.fail_entry.hardware_entry_failure_reason
            return f"the processor refused to enter the Guest (hardware reason {why:#x})"
        if reason == abi.EXIT_INTERNAL_ERROR:
            suberror = exit_.internal.suberror
            detail = ", an instruction KVM cannot emulate" if suberror == abi.INTERNAL_ERROR_EMULATION else ""
            return f"KVM internal error (suberror {suberror}{detail})"
        return f"left for a reason unknown here (KVM exit {reason})"


def _open_mask_for_kick(vcpu_fd: int) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if KICK_SIGNAL not in blocked:
        return  # it is let through everywhere; two changes of masks saved at each entry
    mask = abi.SignalMask(len=8, sigset=sum(1 << (signo - 1) for signo in blocked - {KICK_SIGNAL}))
    ioctl(vcpu_fd, abi.SET_SIGNAL_MASK, ctypes.addressof(mask), name="KVM_SET_SIGNAL_MASK")
