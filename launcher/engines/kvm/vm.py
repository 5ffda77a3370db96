"""A virtual machine of one vCPU, opened and ready for its first instruction.

One memory slot on Guest memory, and no interrupt controller in the kernel (api.rst 4.24): HLT comes back to
us, and interrupts go in by KVM_INTERRUPT. The vCPU starts as a multiboot loader would leave it: 32-bit
protected mode, flat segments, paging and interrupts off.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

from launcher.api import Boot
from launcher.engines.kvm import abi
from shared import linux
from shared.breaker import ExitFlag
from shared.errors import UsageError
from shared.memory import GuestMemory

DEVICE = "/dev/kvm"

# Real-mode emulation on Intel wants three pages that no memory slot covers (api.rst 4.36), and keeps an
# identity map in the page below them. Where QEMU puts them is known to work.
_TSS_ADDR = 0xFFFBD000
_MEMORY_LIMIT = _TSS_ADDR - mmap.PAGESIZE


class Vm:
    """A VM and its vCPU on `memory`, which must stay open longer; `close()` it, or use it in a `with`.

    Raises `UsageError`, in one sentence, where KVM is missing, not allowed or does not work.
    """

    def __init__(self, memory: GuestMemory, boot: Boot, device: str = DEVICE) -> None:
        with contextlib.ExitStack() as opened:
            kvm_fd = _open_device(device)
            opened.callback(os.close, kvm_fd)
            try:
                vm_fd = _create_vm(kvm_fd)
                opened.callback(os.close, vm_fd)
                _add_memory(vm_fd, memory)
                _ioctl(vm_fd, abi.SET_TSS_ADDR, _TSS_ADDR, "KVM_SET_TSS_ADDR")
                self.vcpu_fd = _ioctl(vm_fd, abi.CREATE_VCPU, 0, "KVM_CREATE_VCPU")
                opened.callback(os.close, self.vcpu_fd)
                run_size = _ioctl(kvm_fd, abi.GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")
                self.run_mapping = mmap.mmap(self.vcpu_fd, run_size)
                opened.callback(self.run_mapping.close)
                _set_boot_registers(self.vcpu_fd, boot)
            except OSError as error:
                raise UsageError(f"cannot run a Guest on {device}: {error.strerror}") from error
            self._opened = opened.pop_all()

    def exit_flag(self) -> ExitFlag:
        """Return kvm_run.immediate_exit: KVM reads it once, on entry, and then returns EINTR (api.rst 5)."""
        at = abi.Run.immediate_exit.offset
        return ExitFlag(
            memoryview(self.run_mapping)[at : at + 1],
            ctypes.addressof(ctypes.c_char.from_buffer(self.run_mapping, at)),
            self.vcpu_fd,
            at,
            len(self.run_mapping),
        )

    def eip(self) -> int:
        """Return where the Guest is, for a message. The vCPU's thread only."""
        regs = abi.Regs()
        _ioctl(self.vcpu_fd, abi.GET_REGS, ctypes.addressof(regs), "KVM_GET_REGS")
        return int(regs.rip)

    def close(self) -> None:
        """Give everything back, in reverse; once closed, closing again does nothing."""
        self._opened.close()

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_device(device: str) -> int:
    if os.uname().machine not in ("x86_64", "i686", "i386"):
        raise UsageError(f"cannot run a Guest on {device}: the images are i386 code, this is {os.uname().machine}")
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UsageError(f"no {device}: this kernel has no KVM, or its module is not loaded") from error
    except PermissionError as error:
        raise UsageError(f"not allowed: open {device}: {error.strerror}; add yourself to group kvm") from error
    except OSError as error:
        raise UsageError(f"cannot open {device}: {error.strerror}") from error


def _create_vm(kvm_fd: int) -> int:
    version = _ioctl(kvm_fd, abi.GET_API_VERSION, 0, "KVM_GET_API_VERSION")
    if version != abi.API_VERSION:  # api.rst 4.1: refuse any other
        raise UsageError(f"cannot run a Guest: KVM's API version is {version}, this program speaks {abi.API_VERSION}")
    return _ioctl(kvm_fd, abi.CREATE_VM, 0, "KVM_CREATE_VM")


def _add_memory(vm_fd: int, memory: GuestMemory) -> None:
    if memory.size > _MEMORY_LIMIT:
        raise UsageError(
            f"engine kvm: {memory.size:#x} bytes of memory end past {_MEMORY_LIMIT:#x}, where KVM keeps "
            "pages of its own; give less with --memory"
        )
    region = abi.UserspaceMemoryRegion(memory_size=memory.size, userspace_addr=memory.address())
    _ioctl(vm_fd, abi.SET_USER_MEMORY_REGION, ctypes.addressof(region), "KVM_SET_USER_MEMORY_REGION")


def _set_boot_registers(vcpu_fd: int, boot: Boot) -> None:
    sregs = abi.Sregs()
    _ioctl(vcpu_fd, abi.GET_SREGS, ctypes.addressof(sregs), "KVM_GET_SREGS")
    segments = boot.segments
    sregs.cs = _flat_segment(segments.code_selector, abi.SEGMENT_CODE_ACCESSED)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, _flat_segment(segments.data_selector, abi.SEGMENT_DATA_ACCESSED))
    sregs.gdt = abi.Dtable(base=segments.gdt, limit=max(segments.gdt_size - 1, 0))
    # An empty IDT: an exception before the Guest has one of its own is a triple fault at once, and not a walk
    # through whatever lies at address 0.
    sregs.idt = abi.Dtable()
    sregs.cr0 = abi.CR0_PE | abi.CR0_ET
    _ioctl(vcpu_fd, abi.SET_SREGS, ctypes.addressof(sregs), "KVM_SET_SREGS")
    general = {f"r{name[1:]}": value for name, value in boot.registers.items()}  # KVM's have 64 bits, so EAX is RAX
    regs = abi.Regs(rip=boot.entry, rflags=abi.EFLAGS_RESERVED, **general)
    _ioctl(vcpu_fd, abi.SET_REGS, ctypes.addressof(regs), "KVM_SET_REGS")


def _flat_segment(selector: int, kind: int) -> abi.Segment:
    return abi.Segment(limit=0xFFFFFFFF, selector=selector, type=kind, present=1, db=1, s=1, g=1)


def _ioctl(fd: int, request: int, arg: int, name: str) -> int:
    # KVM_CREATE_VM takes locks that a signal interrupts; during set-up nobody wants to hear of that.
    while True:
        with contextlib.suppress(InterruptedError):
            return linux.ioctl(fd, request, arg, name=name)
