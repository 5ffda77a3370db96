"""What the tests of the kvm engine share; all of them skip, with the reason, where KVM runs no Guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from launcher import image
from launcher.api import Boot
from launcher.engines.kvm import KvmVcpu, why_not
from shared import breaker as breakers
from shared.breaker import Breaker
from shared.memory import GuestMemory
from shared.page import Page
from tests.support import machine_code
from tests.support.images import IMAGES

MEMORY_SIZE = 0x200000
DEVICE_PAGE = MEMORY_SIZE - 0x10000

BootImage = Callable[[str], KvmVcpu]
BootCode = Callable[[bytes], KvmVcpu]


@pytest.fixture(scope="session", autouse=True)
def _kvm_runs_a_guest() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory.create(MEMORY_SIZE) as memory:
        yield memory


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


@pytest.fixture
def breaker(page: Page) -> Iterator[Breaker]:
    breaker = breakers.create("signal", page)
    yield breaker
    breaker.close()


@pytest.fixture
def _opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def boot_image(memory: GuestMemory, breaker: Breaker, _opened: ExitStack) -> BootImage:
    """Return what boots a built-in Guest by its name."""

    def boot(name: str) -> KvmVcpu:
        vcpu = KvmVcpu(memory, image.load(IMAGES / f"{name}.elf", memory, DEVICE_PAGE), breaker)
        _opened.callback(vcpu.close)
        return vcpu

    return boot


@pytest.fixture
def boot_code(memory: GuestMemory, breaker: Breaker, _opened: ExitStack) -> BootCode:
    """Return what boots a few bytes of machine code."""

    def boot(code: bytes) -> KvmVcpu:
        machine_code.place(memory, code)
        vcpu = KvmVcpu(memory, Boot(DEVICE_PAGE, machine_code.CODE), breaker)
        _opened.callback(vcpu.close)
        return vcpu

    return boot
