"""How long this KVM takes to leave a Guest and come back: it says more than its name whether it is a real one.

On a processor it is about a microsecond; nested in another machine, or emulated, it is several to hundreds of times
that, and every Waker on engine kvm pays it.
"""

from __future__ import annotations

from statistics import median
from time import monotonic_ns

from launcher.api import Boot
from launcher.engines.hypercalls import PORT_NOTIFY
from launcher.engines.kvm import abi
from launcher.engines.kvm.vm import Vm
from shared.linux import ioctl
from shared.memory import PAGE_SIZE, GuestMemory

_EXITS = 400
# mov $PORT_NOTIFY, %edx; outl %eax, %dx; jmp to the outl
_CODE = b"\xba" + PORT_NOTIFY.to_bytes(4, "little") + b"\xef" + b"\xeb\xfd"


def exit_ns(exits: int = _EXITS) -> float:
    """Return the median time of an exit and the entry after it, in ns; raise `UsageError` where KVM runs no Guest."""
    with GuestMemory.create(PAGE_SIZE) as memory:
        memory.view(0, len(_CODE))[:] = _CODE
        with Vm(memory, Boot(device_page=PAGE_SIZE)) as vm:
            took: list[int] = []
            while len(took) < exits:
                began_ns = monotonic_ns()
                try:
                    ioctl(vm.vcpu_fd, abi.RUN, name="KVM_RUN")
                except InterruptedError:
                    continue  # a signal, or the kernel's own work for this thread: that is no exit of the Guest's
                took.append(monotonic_ns() - began_ns)
    return median(took)
