"""Engine unicorn: a Guest of machine code on an emulated i386, for any processor and without /dev/kvm.

It runs the images that kvm runs, in Guest memory as it is: mapped straight from the memfd, so that a Waker or a peer
in another process sees each store. The package `unicorn` is an extra, imported when a vCPU is made, and nowhere else.

The danger is a break that comes just before uc_emu_start, which begins by forgetting that it was asked to stop: what
another thread's uc_emu_stop has said until then is lost, and a Guest that computes goes on for ever.

So nobody stops it from outside. Unicorn calls `_look` before each block of instructions (the code up to the next
jump), the first one after an entry too, in the vCPU's own thread; it looks at the flag and stops the emulation from
inside, where unicorn promises that the block is not begun. Nothing lies between: a break that was asked for before
an entry ends it before its first instruction, one that comes later ends it within a block. The kick is for a Guest
that has halted, which sleeps in `breaker.wait()`. Hence whatever can wake a sleeper can stop this engine, an inline
Waker included, as with a Guest in Python, whose `yield` is our block.

The same look lets interrupts in. Unicorn has no interrupt controller, so when the Guest has opened its flag we do by
hand what the processor does (launcher/engines/i386.py): find the gate, push the frame, go on at the handler.

Three things about unicorn that the code below rests on; tests/unit/test_unicorn_engine.py holds each:

- A stop that was asked for in a hook is obeyed before the next *block*, so a Guest would run on after its hypercall:
  instructions later a second one, and EIP forgotten. With a limit of instructions unicorn asks before each
  *instruction*. So there is one, which nobody can reach.
- HLT ends uc_emu_start as a stop does, without a word. Only hooks of ours stop, and each leaves its reason, so no
  reason is HLT. (Were there slices of so many instructions, their end would be taken for a HLT.)
- After an exception of its own unicorn remembers it for good, and takes the next one for a double fault, and the one
  after that ends like HLT. So a Guest dies of the second exception that it cannot blame on its code alone.

Rejected: a thread that waits for the kick and calls uc_emu_stop, again and again until the vCPU has left. It costs two
more changes of threads for each wake-up, and the interrupts of a Guest that opens its flag while it computes must be
looked for all the same. What the look costs: 0.4 us a block.

What differs from a processor, besides what is above: code that a *device* writes over code which has already run is
run as it was (the Guest's own stores are seen); a locked instruction is no fence towards another process; and paging
and other rings than 0 work only as long as nothing interrupts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE, mmap
from typing import TYPE_CHECKING, NamedTuple
from weakref import proxy

from launcher.api import Boot, Broken, Died, Exit, Notify, Restart, Segments, Shutdown
from launcher.engines import i386
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
from shared.breaker import INLINE, Breaker
from shared.errors import BadAddress, UsageError
from shared.memory import PAGE_SIZE, GuestMemory

if TYPE_CHECKING:
    from unicorn import Uc

BREAKERS: tuple[str, ...] = ("eventfd", "signal", "pipe", "futex", "semaphore", "mqueue")
"""What can stop this engine, its default first: whatever wakes a sleeper."""

_ADDRESS_SPACE = 1 << 32
_NEVER = 1 << 62
"""A limit of instructions, for what unicorn does when it has one: centuries of them."""

_TRANSLATIONS = 1 << 30  # unicorn's own choice; hardly any of it is ever touched

# Where the descriptors are while the segment registers are loaded; unmapped before the Guest begins.
_SCRATCH = _ADDRESS_SPACE - PAGE_SIZE
_FLAT_CODE, _FLAT_DATA = 0x00CF9B000000FFFF, 0x00CF93000000FFFF

_BROKEN = Broken()
_SHUTDOWN = Shutdown()
_RESTART = Restart()
_WORD = 4
_HLT, _INT = 0xF4, 0xCD
_LOW_32 = _ADDRESS_SPACE - 1


class _Stop(Enum):
    """Why a hook stopped the emulation, where that is no exit."""

    INTERRUPT = "the Guest lets interrupts in, and one is pending"


class _Exception(NamedTuple):
    """What the Guest raised: an exception of the processor's, or an `int`."""

    vector: int


def why_not() -> str | None:
    """Return None where the package is there, its library loads and has room, else what to do about it."""
    try:
        import unicorn  # noqa: F401
    except (ImportError, OSError) as error:
        how = "pip install 'lguest-launcher[unicorn]'"
        if isinstance(error, ModuleNotFoundError):
            return f"the package unicorn is not installed; {how}"
        return f"the package unicorn does not load ({error}); try {how}"
    try:
        # Tried, because unicorn itself does not say that it cannot: it ends the process.
        mmap(-1, _TRANSLATIONS, flags=MAP_PRIVATE | MAP_ANONYMOUS, prot=PROT_READ | PROT_WRITE | PROT_EXEC).close()
    except OSError as error:
        room = f"no {_TRANSLATIONS >> 20} MiB of addresses for its translations of code"
        return f"{room} (mmap: {error.strerror}); raise ulimit -v, or see vm.overcommit_memory"
    return None


class UnicornVcpu:
    """One emulated vCPU: made, run and closed by one thread; `breaker` stays the caller's.

    Raises `UsageError` for a breaker that cannot wake it, and for more memory than an i386 can address.
    """

    def __init__(self, memory: GuestMemory, boot: Boot, breaker: Breaker) -> None:
        if breaker.kind not in (*BREAKERS, INLINE):
            raise UsageError(f"engine unicorn: breaker '{breaker.kind}' cannot stop it; use {', '.join(BREAKERS)}")
        if memory.size > _SCRATCH:
            raise UsageError(
                f"engine unicorn: {memory.size:#x} bytes of memory end past {_SCRATCH:#x}; give less with --memory"
            )
        import unicorn
        from unicorn import x86_const

        self._unicorn, self._x86 = unicorn, x86_const
        self._memory = memory
        self._breaker = breaker
        self._is_broken = breaker.is_set
        self._thread = threading.get_ident()
        self._pending = 0  # one bit per irq
        self._is_halted = False
        self._block_end: int | None = None  # of the block that ran last, where that is known and matters
        self._left: Exit | _Stop | _Exception | None = None
        self._outside: str | None = None  # what the Guest did past its memory
        self._raised: BaseException | None = None
        self._uc: Uc | None = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self._load_segments(self._uc, boot.segments)
        self._uc.mem_map_ptr(0, memory.size, unicorn.UC_PROT_ALL, memory.address())
        self._uc.reg_write(x86_const.UC_X86_REG_EIP, boot.entry)
        for name, value in boot.registers.items():
            self._uc.reg_write(getattr(x86_const, f"UC_X86_REG_{name.upper()}"), value)
        self._add_hooks(self._uc)

    def run(self) -> Exit:
        """Run the Guest until it wants something or is broken out; a halted Guest stays inside."""
        self._is_broken, self._thread = self._breaker.is_set, threading.get_ident()
        while not self._is_broken():
            if self._is_halted and not (self._pending and self._lets_interrupts_in()):
                self._breaker.wait()
                continue
            exit_ = self._take_interrupt() if self._is_halted else self._go_on()
            if exit_ is not None:
                return exit_
        return _BROKEN

    def interrupt(self, irq: int) -> None:
        """Have the Guest take vector 32 + `irq` as soon as it lets interrupts in; the lowest comes first."""
        self._pending |= irq_bit(irq)

    def breaker(self) -> Breaker:
        """Return what breaks this vCPU out."""
        return self._breaker

    def close(self) -> None:
        """Give the emulator back; once closed, closing again does nothing."""
        if self._uc is not None:
            self._uc = None
            # What holds us, and is not collected yet, is to keep none of these (see _add_hooks).
            del self._memory, self._breaker, self._is_broken

    # ---- Into the Guest, and out of it ----

    def _go_on(self) -> Exit | None:
        """Run the Guest until a hook stops it or it halts; None says: nothing for the Launcher."""
        uc = self._emulator
        self._left = self._outside = self._raised = self._block_end = None
        hook_before = sys.unraisablehook
        try:
            sys.unraisablehook = partial(self._on_unraisable, hook_before)
            uc.emu_start(self._eip(), _ADDRESS_SPACE, count=_NEVER)
        except self._unicorn.UcError as error:
            if self._raised is None:
                return self._fault(error)
        finally:
            sys.unraisablehook = hook_before
        if self._raised is not None:
            raise self._raised
        left = self._left
        if left is None:
            return self._halt()
        if left is _Stop.INTERRUPT:
            return self._take_interrupt()
        if isinstance(left, _Exception):
            return self._take_exception(left.vector)
        assert not isinstance(left, _Stop)
        return left

    def _look(self, _uc: Uc, address: int, size: int, _data: object) -> None:
        """Stop the Guest before this block, if there is a reason to."""
        if self._left is not None:
            return  # a hypercall that ended its block comes first
        if self._is_broken():
            self._stop(_BROKEN)
        elif self._pending:
            if self._lets_interrupts_in() and not self._is_in_shadow(address):
                self._stop(_Stop.INTERRUPT)
            else:
                self._block_end = address + size

    def _is_in_shadow(self, address: int) -> bool:
        """Whether what ran last may have kept interrupts out for one instruction, which is all of this block then.

        A byte may be mistaken for such an instruction, but only where the block before went on into this one: that no
        Guest can do for ever without a jump.
        """
        return self._block_end in (None, address) and i386.may_be_in_shadow(self._memory, address)

    def _on_out(self, _uc: Uc, port: int, size: int, value: int, _data: object) -> None:
        self._stop(self._hypercall(port, size, value & _LOW_32))

    def _on_in(self, _uc: Uc, port: int, size: int, _data: object) -> int:
        self._stop(at_eip(no_hypercall(port, size, is_out=False), self._eip()))
        return 0

    def _on_exception(self, _uc: Uc, vector: int, _data: object) -> None:
        self._stop(_Exception(vector))

    def _on_unmapped(self, _uc: Uc, access: int, address: int, size: int, _value: int, _data: object) -> bool:
        if access == self._unicorn.UC_MEM_FETCH_UNMAPPED:
            self._outside = f"jumped to {address:#x}, past guest memory ({self._memory.size:#x})"
        else:
            is_write = access == self._unicorn.UC_MEM_WRITE_UNMAPPED
            self._outside = outside(address, size, self._memory.size, is_write=is_write)
        return False  # it is not mapped now either: emu_start fails

    def _on_unraisable(
        self, hook_before: Callable[[sys.UnraisableHookArgs], object], unraisable: sys.UnraisableHookArgs
    ) -> None:
        # What a signal's handler raises before a hook's first line is nobody's: ctypes says so here, and goes on. The
        # rest is not for us: what a `__del__` raises, or anything in another thread, as where a Waker is killed.
        if threading.get_ident() == self._thread and "ctypes callback" in (unraisable.err_msg or ""):
            self._raised = unraisable.exc_value
            self._emulator.emu_stop()
        else:
            hook_before(unraisable)

    def _stop(self, why: Exit | _Stop | _Exception) -> None:
        self._left = why
        self._emulator.emu_stop()

    def _hypercall(self, port: int, size: int, eax: int) -> Exit:
        if size == _WORD:
            if port == PORT_NOTIFY:
                return Notify(eax)
            if port == PORT_SHUTDOWN:
                return _SHUTDOWN
            if port == PORT_RESTART:
                return _RESTART
            if port == PORT_CRASH:
                return crashed(self._memory, eax)
        return at_eip(no_hypercall(port, size, is_out=True), self._eip())

    def _halt(self) -> Died | None:
        # A third exception ends like this, too, but before its instruction.
        try:
            is_halt = self._memory.view(self._eip() - 1, 1)[0] == _HLT
        except BadAddress:
            is_halt = False
        if not is_halt:
            return at_eip("triple fault", self._eip())
        self._is_halted = True
        return None

    def _fault(self, error: Exception) -> Died | None:
        if self._outside is not None:
            return at_eip(self._outside, self._eip())
        if getattr(error, "errno", None) == self._unicorn.UC_ERR_INSN_INVALID:
            return self._take_exception(i386.INVALID_OPCODE)
        return at_eip(f"unicorn: {error}", self._eip())

    # ---- What the processor does when it is interrupted ----

    def _take_interrupt(self) -> Died | None:
        vector, self._pending = lowest_irq(self._pending)
        self._is_halted = False
        return self._enter(vector)

    def _take_exception(self, vector: int) -> Died | None:
        if vector == i386.DOUBLE_FAULT:
            return at_eip("a second exception in the Guest, which engine unicorn cannot tell", self._eip())
        return self._enter(vector, 0 if vector in i386.WITH_ERROR_CODE and not self._came_by_int(vector) else None)

    def _came_by_int(self, vector: int) -> bool:
        try:
            return bytes(self._memory.view(self._eip() - 2, 2)) == bytes([_INT, vector])
        except BadAddress:
            return False

    def _enter(self, vector: int, error_code: int | None = None) -> Died | None:
        """Go on at the handler of `vector`, or of what the processor raises where there is none."""
        uc, x86 = self._emulator, self._x86
        selector = uc.reg_read(x86.UC_X86_REG_CS)
        if selector & 3 or uc.reg_read(x86.UC_X86_REG_CR0) & i386.CR0_PG:
            return at_eip("interrupted outside of ring 0, or with paging, which engine unicorn cannot do", self._eip())
        idt, gdt = self._table(x86.UC_X86_REG_IDTR), self._table(x86.UC_X86_REG_GDTR)
        while (gate := i386.find_gate(self._memory, idt, gdt, vector)) is None:
            failed, raised = vector, i386.next_exception(vector)
            if raised is None:
                return at_eip("triple fault", self._eip())
            vector, error_code = raised, 0 if raised == i386.DOUBLE_FAULT else failed * 8 + 2
        flags = uc.reg_read(x86.UC_X86_REG_EFLAGS)
        frame = [self._eip(), selector, flags]
        if error_code is not None:
            frame.insert(0, error_code)
        if (died := self._push(frame)) is not None:
            return died
        cleared = i386.CLEARED_AT_ENTRY | (i386.EFLAGS_IF if gate.closes else 0)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, flags & ~cleared)
        if gate.selector != selector:
            uc.reg_write(x86.UC_X86_REG_CS, gate.selector)
        uc.reg_write(x86.UC_X86_REG_EIP, gate.offset)
        return None

    def _push(self, words: list[int]) -> Died | None:
        """Put these on the Guest's stack, the first one lowest."""
        pushed = b"".join(word.to_bytes(_WORD, "little") for word in words)
        top = (self._emulator.reg_read(self._x86.UC_X86_REG_ESP) - len(pushed)) & _LOW_32
        try:
            self._memory.view(top, len(pushed))[:] = pushed
        except BadAddress:
            return at_eip(outside(top, len(pushed), self._memory.size, is_write=True), self._eip())
        self._emulator.reg_write(self._x86.UC_X86_REG_ESP, top)
        return None

    # ---- Registers ----

    @property
    def _emulator(self) -> Uc:
        assert self._uc is not None, "the vCPU is closed"
        return self._uc

    def _eip(self) -> int:
        return int(self._emulator.reg_read(self._x86.UC_X86_REG_EIP))

    def _lets_interrupts_in(self) -> bool:
        return bool(self._emulator.reg_read(self._x86.UC_X86_REG_EFLAGS) & i386.EFLAGS_IF)

    def _table(self, register: int) -> i386.Table:
        _, base, limit, _ = self._emulator.reg_read(register)
        return i386.Table(base, limit)

    def _load_segments(self, uc: Uc, segments: Segments) -> None:
        """Load flat segments through a GDT that is gone when the Guest begins: it finds its own, or none, as on kvm."""
        x86 = self._x86
        uc.mem_map(_SCRATCH, PAGE_SIZE)
        flat = {segments.code_selector: _FLAT_CODE, segments.data_selector: _FLAT_DATA}
        for selector, descriptor in flat.items():
            uc.mem_write(_SCRATCH + selector, descriptor.to_bytes(8, "little"))
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, _SCRATCH, max(flat) + 7, 0))
        uc.reg_write(x86.UC_X86_REG_CS, segments.code_selector)
        for register in ("DS", "ES", "FS", "GS", "SS"):
            uc.reg_write(getattr(x86, f"UC_X86_REG_{register}"), segments.data_selector)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, segments.gdt, max(segments.gdt_size - 1, 0), 0))
        # An empty IDT: an exception before the Guest has one of its own is a triple fault at once.
        uc.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 0, 0))
        uc.mem_unmap(_SCRATCH, PAGE_SIZE)

    def _add_hooks(self, uc: Uc) -> None:
        unicorn, x86 = self._unicorn, self._x86
        anywhere = (None, 1, 0)
        # Unicorn makes a callback by ctypes.cast, which leaves a cycle that the collector alone frees. In it is whoever
        # adds the hook: were that the emulator itself, a gigabyte of addresses would stay until then.
        add = partial(type(uc).hook_add, proxy(uc))
        add(unicorn.UC_HOOK_BLOCK, self._look)
        add(unicorn.UC_HOOK_INSN, self._on_out, *anywhere, x86.UC_X86_INS_OUT)
        add(unicorn.UC_HOOK_INSN, self._on_in, *anywhere, x86.UC_X86_INS_IN)
        add(unicorn.UC_HOOK_INTR, self._on_exception)
        add(unicorn.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
