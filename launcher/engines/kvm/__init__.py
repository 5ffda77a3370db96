"""Engine kvm: the Guest runs on the processor, by raw ioctls on /dev/kvm."""

from __future__ import annotations

from launcher.api import Boot
from launcher.engines.kvm import abi
from launcher.engines.kvm.vcpu import BREAKERS, KvmVcpu
from launcher.engines.kvm.vm import DEVICE, Vm
from shared.errors import UsageError
from shared.linux import ioctl
from shared.memory import PAGE_SIZE, GuestMemory

__all__ = ["BREAKERS", "KvmVcpu", "Vm", "why_not"]

_HLT = b"\xf4"


def why_not(device: str = DEVICE) -> str | None:
    """Return None where KVM really runs a Guest, found out by running one instruction; else say why not.

    A /dev/kvm that opens proves little: it may be nested, software-backed, or out of memory.
    """
    with GuestMemory.create(PAGE_SIZE) as memory:
        memory.view(0, 1)[:] = _HLT
        try:
            with Vm(memory, Boot(device_page=PAGE_SIZE), device) as vm:
                return _why_no_halt(vm)
        except UsageError as refusal:
            return str(refusal)


def _why_no_halt(vm: Vm) -> str | None:
    while True:
        try:
            ioctl(vm.vcpu_fd, abi.RUN, name="KVM_RUN")
        except InterruptedError:
            continue  # a signal of the caller's; its Python handler runs here
        except OSError as error:
            return f"cannot run a Guest: {error.strerror}"
        reason = abi.Run.from_buffer_copy(vm.run_mapping).exit_reason
        return None if reason == abi.EXIT_HLT else f"cannot run a Guest: HLT was answered by KVM exit {reason}"
