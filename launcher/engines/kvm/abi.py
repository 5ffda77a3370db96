"""The KVM ABI, as ctypes structures and numbers without logic; ioctl numbers come from the structures.

Sources: Documentation/virt/kvm/api.rst (chapter 4 for the ioctls, chapter 5 for kvm_run), `linux/kvm.h` and
`asm/kvm.h` for x86. Sizes, offsets and numbers are pinned by tests/unit/test_kvm_abi.py, and compared there
with the compiler's when there is one.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64

API_VERSION = 12

# Exit reasons (api.rst 5).
EXIT_UNKNOWN = 0
EXIT_IO = 2
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_IRQ_WINDOW_OPEN = 7
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTERNAL_ERROR = 17

IO_IN = 0
IO_OUT = 1

INTERNAL_ERROR_EMULATION = 1

CR0_PE = 1 << 0
CR0_ET = 1 << 4

# Bit 1 of EFLAGS is always one.
EFLAGS_RESERVED = 1 << 1

SEGMENT_DATA_ACCESSED = 0x3
SEGMENT_CODE_ACCESSED = 0xB


class UserspaceMemoryRegion(ctypes.Structure):
    """struct kvm_userspace_memory_region (api.rst 4.35)."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class Regs(ctypes.Structure):
    """struct kvm_regs (api.rst 4.11): 64-bit registers, of which a 32-bit Guest uses the low halves."""

    _fields_ = (
        ("rax", c_uint64),
        ("rbx", c_uint64),
        ("rcx", c_uint64),
        ("rdx", c_uint64),
        ("rsi", c_uint64),
        ("rdi", c_uint64),
        ("rsp", c_uint64),
        ("rbp", c_uint64),
        ("r8", c_uint64),
        ("r9", c_uint64),
        ("r10", c_uint64),
        ("r11", c_uint64),
        ("r12", c_uint64),
        ("r13", c_uint64),
        ("r14", c_uint64),
        ("r15", c_uint64),
        ("rip", c_uint64),
        ("rflags", c_uint64),
    )


class Segment(ctypes.Structure):
    """struct kvm_segment (api.rst 4.13): a segment register with its hidden part."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    )


class Dtable(ctypes.Structure):
    """struct kvm_dtable (api.rst 4.13): where the GDT or the IDT is."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class Sregs(ctypes.Structure):
    """struct kvm_sregs (api.rst 4.13)."""

    _fields_ = (
        ("cs", Segment),
        ("ds", Segment),
        ("es", Segment),
        ("fs", Segment),
        ("gs", Segment),
        ("ss", Segment),
        ("tr", Segment),
        ("ldt", Segment),
        ("gdt", Dtable),
        ("idt", Dtable),
        ("cr0", c_uint64),
        ("cr2", c_uint64),
        ("cr3", c_uint64),
        ("cr4", c_uint64),
        ("cr8", c_uint64),
        ("efer", c_uint64),
        ("apic_base", c_uint64),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class Interrupt(ctypes.Structure):
    """struct kvm_interrupt (api.rst 4.16): the vector, not the irq."""

    _fields_ = (("irq", c_uint32),)


class SignalMaskHead(ctypes.Structure):
    """struct kvm_signal_mask (api.rst 4.21) without the set that follows: its size is in the ioctl number."""

    _fields_ = (("len", c_uint32),)


class SignalMask(ctypes.Structure):
    """The same with its set: one bit per signal, signal 1 lowest. Packed, or a gap would follow `len`."""

    _pack_ = 1
    _fields_ = (("len", c_uint32), ("sigset", c_uint64))


class RunIo(ctypes.Structure):
    """kvm_run.io (api.rst 5, KVM_EXIT_IO); the data lie at `data_offset` in kvm_run's mapping."""

    _fields_ = (
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    )


class RunMmio(ctypes.Structure):
    """kvm_run.mmio (api.rst 5, KVM_EXIT_MMIO)."""

    _fields_ = (
        ("phys_addr", c_uint64),
        ("data", c_uint8 * 8),
        ("len", c_uint32),
        ("is_write", c_uint8),
    )


class RunFailEntry(ctypes.Structure):
    """kvm_run.fail_entry (api.rst 5, KVM_EXIT_FAIL_ENTRY)."""

    _fields_ = (("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32))


class RunInternal(ctypes.Structure):
    """kvm_run.internal (api.rst 5, KVM_EXIT_INTERNAL_ERROR)."""

    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class RunHw(ctypes.Structure):
    """kvm_run.hw (api.rst 5, KVM_EXIT_UNKNOWN)."""

    _fields_ = (("hardware_exit_reason", c_uint64),)


class RunExit(ctypes.Union):
    """The union in kvm_run that says more about an exit; which member holds depends on the reason."""

    _fields_ = (
        ("hw", RunHw),
        ("fail_entry", RunFailEntry),
        ("io", RunIo),
        ("mmio", RunMmio),
        ("internal", RunInternal),
        ("padding", c_uint8 * 256),
    )


class Run(ctypes.Structure):
    """The beginning of struct kvm_run (api.rst 5), shared with the kernel by mmap of the vCPU's fd."""

    _fields_ = (
        # Ours, read by the kernel on entry.
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        # The kernel's, written at each exit.
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit", RunExit),
    )


_KVMIO = 0xAE
_WRITE = 1
_READ = 2


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | _KVMIO << 8 | number


def _io(number: int) -> int:
    return _ioc(0, number, 0)


def _iow(number: int, struct: type[ctypes.Structure]) -> int:
    return _ioc(_WRITE, number, ctypes.sizeof(struct))


def _ior(number: int, struct: type[ctypes.Structure]) -> int:
    return _ioc(_READ, number, ctypes.sizeof(struct))


# On /dev/kvm.
GET_API_VERSION = _io(0x00)
CREATE_VM = _io(0x01)
GET_VCPU_MMAP_SIZE = _io(0x04)
# On the VM.
CREATE_VCPU = _io(0x41)
SET_USER_MEMORY_REGION = _iow(0x46, UserspaceMemoryRegion)
SET_TSS_ADDR = _io(0x47)
# On the vCPU.
RUN = _io(0x80)
GET_REGS = _ior(0x81, Regs)
SET_REGS = _iow(0x82, Regs)
GET_SREGS = _ior(0x83, Sregs)
SET_SREGS = _iow(0x84, Sregs)
INTERRUPT = _iow(0x86, Interrupt)
SET_SIGNAL_MASK = _iow(0x8B, SignalMaskHead)
