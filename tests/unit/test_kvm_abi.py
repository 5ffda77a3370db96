"""The KVM ABI is what the kernel's headers say: pinned here, and asked of the compiler where there is one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.engines.kvm import abi

SIZES = {
    "kvm_userspace_memory_region": (abi.UserspaceMemoryRegion, 32),
    "kvm_regs": (abi.Regs, 144),
    "kvm_segment": (abi.Segment, 24),
    "kvm_dtable": (abi.Dtable, 16),
    "kvm_sregs": (abi.Sregs, 312),
    "kvm_interrupt": (abi.Interrupt, 4),
    "kvm_signal_mask": (abi.SignalMaskHead, 4),
}

NUMBERS = {
    "KVM_GET_API_VERSION": (abi.GET_API_VERSION, 0xAE00),
    "KVM_CREATE_VM": (abi.CREATE_VM, 0xAE01),
    "KVM_GET_VCPU_MMAP_SIZE": (abi.GET_VCPU_MMAP_SIZE, 0xAE04),
    "KVM_CREATE_VCPU": (abi.CREATE_VCPU, 0xAE41),
    "KVM_SET_USER_MEMORY_REGION": (abi.SET_USER_MEMORY_REGION, 0x4020AE46),
    "KVM_SET_TSS_ADDR": (abi.SET_TSS_ADDR, 0xAE47),
    "KVM_RUN": (abi.RUN, 0xAE80),
    "KVM_GET_REGS": (abi.GET_REGS, 0x8090AE81),
    "KVM_SET_REGS": (abi.SET_REGS, 0x4090AE82),
    "KVM_GET_SREGS": (abi.GET_SREGS, 0x8138AE83),
    "KVM_SET_SREGS": (abi.SET_SREGS, 0x4138AE84),
    "KVM_INTERRUPT": (abi.INTERRUPT, 0x4004AE86),
    "KVM_SET_SIGNAL_MASK": (abi.SET_SIGNAL_MASK, 0x4004AE8B),
    "KVM_EXIT_IO": (abi.EXIT_IO, 2),
    "KVM_EXIT_HLT": (abi.EXIT_HLT, 5),
    "KVM_EXIT_MMIO": (abi.EXIT_MMIO, 6),
    "KVM_EXIT_IRQ_WINDOW_OPEN": (abi.EXIT_IRQ_WINDOW_OPEN, 7),
    "KVM_EXIT_SHUTDOWN": (abi.EXIT_SHUTDOWN, 8),
    "KVM_EXIT_FAIL_ENTRY": (abi.EXIT_FAIL_ENTRY, 9),
    "KVM_EXIT_INTERNAL_ERROR": (abi.EXIT_INTERNAL_ERROR, 17),
    "KVM_EXIT_IO_OUT": (abi.IO_OUT, 1),
    "KVM_INTERNAL_ERROR_EMULATION": (abi.INTERNAL_ERROR_EMULATION, 1),
    "KVM_API_VERSION": (abi.API_VERSION, 12),
}

_UNION = abi.Run.exit.offset
RUN_OFFSETS = {
    "request_interrupt_window": (abi.Run.request_interrupt_window.offset, 0),
    "immediate_exit": (abi.Run.immediate_exit.offset, 1),
    "exit_reason": (abi.Run.exit_reason.offset, 8),
    "ready_for_interrupt_injection": (abi.Run.ready_for_interrupt_injection.offset, 12),
    "if_flag": (abi.Run.if_flag.offset, 13),
    "io.direction": (_UNION + abi.RunIo.direction.offset, 32),
    "io.size": (_UNION + abi.RunIo.size.offset, 33),
    "io.port": (_UNION + abi.RunIo.port.offset, 34),
    "io.count": (_UNION + abi.RunIo.count.offset, 36),
    "io.data_offset": (_UNION + abi.RunIo.data_offset.offset, 40),
    "mmio.phys_addr": (_UNION + abi.RunMmio.phys_addr.offset, 32),
    "mmio.len": (_UNION + abi.RunMmio.len.offset, 48),
    "mmio.is_write": (_UNION + abi.RunMmio.is_write.offset, 52),
    "fail_entry.hardware_entry_failure_reason": (
        _UNION + abi.RunFailEntry.hardware_entry_failure_reason.offset,
        32,
    ),
    "internal.suberror": (_UNION + abi.RunInternal.suberror.offset, 32),
    "kvm_valid_regs": (ctypes.sizeof(abi.Run), 288),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_structure_has_the_kernels_size(name: str) -> None:
    struct, size = SIZES[name]
    assert ctypes.sizeof(struct) == size


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_kernels(name: str) -> None:
    ours, pinned = NUMBERS[name]
    assert ours == pinned


@pytest.mark.parametrize("name", RUN_OFFSETS)
def test_a_field_of_kvm_run_is_where_the_kernel_has_it(name: str) -> None:
    ours, pinned = RUN_OFFSETS[name]
    assert ours == pinned


def test_the_signal_set_follows_its_length_without_a_gap() -> None:
    assert (abi.SignalMask.sigset.offset, ctypes.sizeof(abi.SignalMask)) == (4, 12)


def test_the_kernels_headers_agree(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no C compiler, or no linux/kvm.h")
    asked = {
        **{f"sizeof(struct {name})": size for name, (_, size) in SIZES.items()},
        **{name: pinned for name, (_, pinned) in NUMBERS.items()},
        **{f"offsetof(struct kvm_run, {name})": offset for name, (_, offset) in RUN_OFFSETS.items()},
    }
    checks = "\n".join(f'_Static_assert({what} == {value}, "{what}");' for what, value in asked.items())
    source = tmp_path / "abi.c"
    source.write_text(f"#include <stddef.h>\n#include <linux/kvm.h>\n{checks}\n")
    subprocess.run([compiler, "-fsyntax-only", source], check=True)
