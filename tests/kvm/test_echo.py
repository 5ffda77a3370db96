"""The echo Guest in machine code, from the host's side of the console: every byte comes back, once, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from launcher import image
from launcher.api import Broken, Died, Notify, Shutdown
from shared.breaker import BreakHandle
from shared.memory import PAGE_SIZE, GuestMemory
from shared.structs import DeviceDesc, VqConfig
from shared.virtqueue import Chain, Virtqueue
from shared.vring_layout import VringLayout
from tests.kvm.conftest import DEVICE_PAGE, MakeVcpu
from tests.support.images import IMAGES, rebuild

ECHO = IMAGES / "echo.elf"

EOT = b"\x04"
INDIRECT = 1 << 28
EVENT_IDX = 1 << 29
RING_PAGES = 4
INPUT_IRQ, OUTPUT_IRQ = 4, 5
ALL_READY = 1 | 2 | 4  # ACKNOWLEDGE, DRIVER, DRIVER_OK


class HaltSpotter:
    """A breaker that breaks out a Guest when, and only when, the vCPU would sleep: so a test sees it halt."""

    kind: ClassVar[str] = "signal"

    def __init__(self) -> None:
        self._is_set = False

    def break_out(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def clear(self) -> None:
        self._is_set = False

    def wait(self) -> None:
        self.break_out()

    def take_kick(self) -> None:
        pass

    def handle(self) -> BreakHandle:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Console:
    """The host's side: a device page with one console on it, and a Guest that was booted on it."""

    def __init__(
        self, make_vcpu: MakeVcpu, memory: GuestMemory, *, offered: int, nums: tuple[int, int], guest: Path = ECHO
    ) -> None:
        self.memory = memory
        self.offered = offered
        self.desc = memory.at(DeviceDesc, DEVICE_PAGE)
        self.desc.type, self.desc.num_vq, self.desc.feature_len = 3, 2, 4
        self._rings: list[VringLayout] = []
        at = DEVICE_PAGE + len(bytes(DeviceDesc()))
        for number, num in enumerate(nums):
            pfn = DEVICE_PAGE // PAGE_SIZE + 1 + number * RING_PAGES
            config = bytes(VqConfig(num, INPUT_IRQ + number, pfn))
            memory.view(at, len(config))[:] = config
            at += len(config)
            self._rings.append(VringLayout.contiguous(num, pfn * PAGE_SIZE))
        memory.view(at, 4)[:] = offered.to_bytes(4, "little")
        self._acked_at = at + 4

        self.breaker = HaltSpotter()
        self.vcpu = make_vcpu(memory, image.load(guest, memory, DEVICE_PAGE), self.breaker)
        assert self.vcpu.run() == Notify(DEVICE_PAGE)
        event_idx = bool(self.acked & EVENT_IDX)
        self.input, self.output = (
            Virtqueue(memory, ring, name, event_idx=event_idx)
            for ring, name in zip(self._rings, ("input", "output"), strict=True)
        )
        self.typed = b""
        self.shown = b""
        self.interrupts = 0

    @property
    def acked(self) -> int:
        return int.from_bytes(self.memory.view(self._acked_at, 4), "little")

    def fill_input(self, at_most: int = PAGE_SIZE) -> None:
        """Fill what buffers the Guest has given with what is typed, and interrupt it if it wants to know."""
        while self.typed and (chain := self.input.pop()):
            written = chain.write(self.typed[:at_most])
            self.typed = self.typed[written:]
            self.input.push(chain, written)
        if self.input.needs_interrupt():
            self.interrupts += 1
            self.vcpu.interrupt(INPUT_IRQ)

    def take_output(self) -> list[Chain]:
        """Take what the Guest sends, but give no buffer back yet."""
        chains = list(iter(self.output.pop, None))
        self.shown += b"".join(chain.read() for chain in chains)
        return chains

    def give_back(self, chains: list[Chain]) -> None:
        for chain in chains:
            self.output.push(chain, 0)
        if self.output.needs_interrupt():
            self.interrupts += 1
            self.vcpu.interrupt(OUTPUT_IRQ)

    def run(self, *, is_slow: bool = False) -> Broken | Shutdown | Died:
        """Serve the Guest until it halts or ends; a slow console writes nothing before the Guest halts."""
        held: list[Chain] = []
        while True:
            self.breaker.clear()
            self.fill_input()
            if not is_slow:
                self.give_back(self.take_output())
            wanted = self.vcpu.run()
            if isinstance(wanted, Notify):
                continue
            if not is_slow or not isinstance(wanted, Broken):
                return wanted
            held = self.take_output()
            if not held:
                return wanted
            self.give_back(held)


Boots = Callable[..., Console]


@pytest.fixture(params=[INDIRECT | EVENT_IDX, INDIRECT], ids=["event_idx", "flags"])
def boot(request: pytest.FixtureRequest, make_vcpu: MakeVcpu, memory: GuestMemory) -> Iterator[Boots]:
    consoles: list[Console] = []

    def boot(nums: tuple[int, int] = (64, 64)) -> Console:
        consoles.append(Console(make_vcpu, memory, offered=request.param, nums=nums))
        return consoles[-1]

    yield boot
    for console in consoles:
        console.vcpu.close()


def test_the_guest_starts_its_console_with_the_one_feature_it_knows(boot: Boots) -> None:
    console = boot()
    assert console.desc.status == ALL_READY
    assert console.acked == console.offered & EVENT_IDX
    assert console.run() == Broken()
    assert len(list(iter(console.input.pop, None))) == 8


def test_every_byte_but_the_last_word_comes_back(boot: Boots) -> None:
    console = boot()
    every_byte = bytes(byte for byte in range(256) if byte != EOT[0])
    console.typed = every_byte
    assert console.run() == Broken()
    assert console.shown == every_byte


def test_bytes_typed_one_by_one_come_back_one_by_one(boot: Boots) -> None:
    console = boot()
    for byte in b"one by one, as a person types":
        console.typed, console.shown = bytes([byte]), b""
        assert console.run() == Broken()
        assert console.shown == bytes([byte])


@pytest.mark.parametrize("is_slow", [False, True], ids=["prompt", "slow"])
@pytest.mark.parametrize("nums", [(64, 64), (1, 1), (2, 8), (8, 2), (4, 4)], ids=str)
def test_thousands_of_bytes_at_once_lose_none(nums: tuple[int, int], is_slow: bool, boot: Boots) -> None:
    console = boot(nums)
    text = bytes(5 + number % 251 for number in range(10_000))
    console.typed = text
    assert console.run(is_slow=is_slow) == Broken()
    assert console.shown == text
    console.typed = EOT
    assert console.run(is_slow=is_slow) == Shutdown()


def test_ring_indices_that_wrap_lose_nothing(make_vcpu: MakeVcpu, memory: GuestMemory) -> None:
    console = Console(make_vcpu, memory, offered=EVENT_IDX, nums=(64, 64))
    assert console.run() == Broken()
    # Buffers given back empty come round fast: nothing goes out for them.
    for _ in range(0x10000 // 8 + 1):
        console.breaker.clear()
        for chain in console.input.pop_many(8):
            console.input.push(chain, 0)
        console.fill_input()
        while isinstance(console.vcpu.run(), Notify):
            pass
    console.typed = b"after the wrap"
    assert console.run() == Broken()
    assert console.shown == b"after the wrap"
    console.vcpu.close()


def test_what_came_before_the_end_is_echoed_and_what_came_after_is_not(boot: Boots) -> None:
    console = boot()
    console.typed = b"before" + EOT + b"after" + EOT
    assert console.run() == Shutdown()
    assert console.shown == b"before"


def test_an_end_alone_shuts_the_guest_down(boot: Boots) -> None:
    console = boot()
    console.typed = EOT
    assert console.run() == Shutdown()
    assert console.shown == b""


def test_the_guest_waits_for_its_last_bytes_to_be_written(boot: Boots) -> None:
    console = boot()
    assert console.run() == Broken()
    console.breaker.clear()
    console.typed = b"x" * 600 + EOT
    console.fill_input()
    while isinstance(wanted := console.vcpu.run(), Notify):
        pass
    assert wanted == Broken()  # it halts: nothing was written yet
    for chain in console.take_output():
        console.breaker.clear()
        console.give_back([chain])
        wanted = console.vcpu.run()
    assert wanted == Shutdown()
    assert console.shown == b"x" * 600


def test_an_empty_buffer_is_only_given_back(boot: Boots) -> None:
    console = boot()
    assert console.run() == Broken()
    for _ in range(20):
        chain = console.input.pop()
        assert chain is not None
        console.input.push(chain, 0)
        console.fill_input()
        assert console.run() == Broken()
    assert console.shown == b""


def test_nothing_typed_means_no_notification_and_no_interrupt(boot: Boots) -> None:
    console = boot()
    assert console.run() == Broken()
    interrupts = console.interrupts
    console.breaker.clear()
    assert console.vcpu.run() == Broken()
    assert console.interrupts == interrupts


def test_a_prompt_console_interrupts_for_input_only(boot: Boots) -> None:
    console = boot()
    assert console.run() == Broken()
    console.interrupts = 0
    for _ in range(50):
        console.typed = b"!"
        assert console.run() == Broken()
    assert console.interrupts == 50


def test_an_image_that_this_machines_compiler_built_echoes_too(
    make_vcpu: MakeVcpu, memory: GuestMemory, tmp_path: Path
) -> None:
    rebuild(tmp_path)
    console = Console(make_vcpu, memory, offered=EVENT_IDX, nums=(8, 8), guest=tmp_path / "echo.elf")
    console.typed = b"built here" + EOT
    assert console.run() == Shutdown()
    assert console.shown == b"built here"
    console.vcpu.close()


def run_on(make_vcpu: MakeVcpu, memory: GuestMemory, page: bytes) -> Broken | Notify | Shutdown | Died:
    memory.view(DEVICE_PAGE, len(page))[:] = page
    vcpu = make_vcpu(memory, image.load(ECHO, memory, DEVICE_PAGE), HaltSpotter())
    try:
        return vcpu.run()
    finally:
        vcpu.close()


@pytest.mark.parametrize(
    "page",
    [
        b"",
        bytes(DeviceDesc(type=1)),
        bytes(DeviceDesc(type=3, num_vq=1)) + bytes(VqConfig(4, 1, 1)),
        bytes(DeviceDesc(type=1, config_len=255)) * 16,
    ],
    ids=["nothing", "a network card", "a console without output", "a page that runs over"],
)
def test_a_guest_without_a_console_says_so(page: bytes, make_vcpu: MakeVcpu, memory: GuestMemory) -> None:
    page = page[:PAGE_SIZE]
    assert run_on(make_vcpu, memory, page) == Died("echo: a console: not on the device page")


def test_the_console_is_found_behind_other_devices(make_vcpu: MakeVcpu, memory: GuestMemory) -> None:
    others = bytes(DeviceDesc(type=1, num_vq=1, feature_len=2, config_len=3)) + bytes(8 + 4 + 3)
    pfn = DEVICE_PAGE // PAGE_SIZE + 1
    console = bytes(DeviceDesc(type=3, num_vq=2)) + bytes(VqConfig(4, 1, pfn)) + bytes(VqConfig(4, 2, pfn + 4))
    assert run_on(make_vcpu, memory, others + console) == Notify(DEVICE_PAGE + len(others))
