"""What the tests of machine code share: the engines that run it, kvm and unicorn, each with the same few instructions.

One that cannot run here is skipped with the reason. What is about one engine alone gives its name for `engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from launcher import engines, image
from launcher.api import Boot, Vcpu
from launcher.engines.kvm import KvmVcpu
from launcher.engines.unicorn import UnicornVcpu
from shared import breaker as breakers
from shared.breaker import Breaker
from shared.memory import GuestMemory
from shared.page import Page
from tests.support import machine_code
from tests.support.images import IMAGES

MEMORY_SIZE = 0x200000
DEVICE_PAGE = MEMORY_SIZE - 0x10000

MACHINES: dict[str, Callable[[GuestMemory, Boot, Breaker], Vcpu]] = {"kvm": KvmVcpu, "unicorn": UnicornVcpu}
ENGINES = [pytest.param(name, marks=[pytest.mark.kvm] if name == "kvm" else []) for name in MACHINES]

MakeVcpu = Callable[[GuestMemory, Boot, Breaker], Vcpu]
BootImage = Callable[[str], Vcpu]
BootCode = Callable[[bytes], Vcpu]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def make_vcpu(engine: str) -> MakeVcpu:
    if reason := engines.get(engine).why_not():
        pytest.skip(f"{engine}: {reason}")
    return MACHINES[engine]


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
def boot_image(make_vcpu: MakeVcpu, memory: GuestMemory, breaker: Breaker, _opened: ExitStack) -> BootImage:
    """Return what boots a built-in Guest by its name."""

    def boot(name: str) -> Vcpu:
        vcpu = make_vcpu(memory, image.load(IMAGES / f"{name}.elf", memory, DEVICE_PAGE), breaker)
        _opened.callback(vcpu.close)
        return vcpu

    return boot


@pytest.fixture
def boot_code(make_vcpu: MakeVcpu, memory: GuestMemory, breaker: Breaker, _opened: ExitStack) -> BootCode:
    """Return what boots a few bytes of machine code."""

    def boot(code: bytes) -> Vcpu:
        machine_code.place(memory, code)
        vcpu = make_vcpu(memory, Boot(DEVICE_PAGE, machine_code.CODE), breaker)
        _opened.callback(vcpu.close)
        return vcpu

    return boot
