"""What a hostile Guest may do to the ring of any device: keep it empty and notify all the same, or full; and to rng's.

test_hostile_guests.py is about the console, and about rings as such; networks and disks have files of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network import own_network
from tests.support.pong import HOST
from tests.support.sessions import last_sentence, run_launcher

HEAD = """
from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, panic
from launcher.guests.support import find_device
from shared.virtio import *
from tests.support.rings import Hand

DATA = 0x8000
"""
EMPTY = """
def run(cpu):
    found = [find_device(cpu, kind, "hostile") for kind in (CONSOLE, RNG, NET, BLOCK)]
    for device in found:
        yield from device.start()
    for _ in range(300):
        for device in found:
            for ring in device.rings:
                yield Notify(ring.desc)
    for device in found:
        for ring in device.rings:
            if Hand(cpu.memory, ring).word(ring.used_idx):
                panic("something came back of nothing")
    yield Shutdown()
"""
ENTROPY = """
def run(cpu):
    rng = find_device(cpu, RNG, "hostile")
    yield from rng.start()
    (layout,), size = rng.rings, cpu.memory.size
    hand = Hand(cpu.memory, layout)
    {body}
    yield Notify(layout.desc)
    while True:
        yield HALT
"""
FULL = """
    for at in range(64):
        hand.write_descriptor(at, length=1 + at, flags=DESC_F_WRITE)
    for _ in range(200):
        hand.offer(*range(64))
        yield Notify(layout.desc)
    if hand.word(layout.used_idx) != 200 * 64:
        panic("not all came back")
    yield Shutdown()
"""
HUGE = """
    for at in range(64):
        hand.write_descriptor(at, 0x10000, 0x3000, DESC_F_WRITE | DESC_F_NEXT * (at < 63), at + 1)
    hand.offer(0)
    yield Notify(layout.desc)
    if not 0 < int.from_bytes(cpu.memory.view(layout.used_ring + 4, 4), "little") <= 64 * 0x3000:
        panic("more came than there is room for")
    yield Shutdown()
"""


def run_guest(tmp_path: Path, source: str, *options: str) -> tuple[int, str]:
    guest = tmp_path / "hostile.py"
    guest.write_text(HEAD + source)
    done = run_launcher("run", "--engine=python", "--memory=1", "--waker=thread/select", *options, str(guest))
    return done.returncode, last_sentence(done.stderr) if done.returncode else ""


@pytest.fixture
def _network() -> Iterator[None]:
    with own_network():
        yield


@pytest.mark.usefixtures("_network")
def test_rings_that_are_always_empty_cost_nothing_but_the_notifications(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"d" * 4096)
    assert run_guest(tmp_path, EMPTY, "--rng", f"--tunnet={HOST}", f"--block={disk}") == (0, "")
    assert disk.read_bytes() == b"d" * 4096


@pytest.mark.parametrize("body", [FULL, HUGE], ids=["always full", "a huge chain"])
def test_entropy_is_given_as_often_and_as_much_as_is_asked_for(body: str, tmp_path: Path) -> None:
    assert run_guest(tmp_path, ENTROPY.format(body=body), "--rng") == (0, "")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("hand.write_descriptor(3); hand.offer(3)", "descriptor 3 is a request for entropy that the device cannot"),
        (
            "hand.write_descriptor(3, flags=DESC_F_NEXT, next_=4); hand.write_descriptor(4, flags=DESC_F_WRITE); "
            "hand.offer(3)",
            "descriptor 3 is a request for entropy that the device cannot",
        ),
        ("hand.write_descriptor(3, length=0, flags=DESC_F_WRITE); hand.offer(3)", "descriptor 3 has no length"),
        ("hand.write_descriptor(3, size - 8, 16, DESC_F_WRITE); hand.offer(3)", "descriptor 3 ends at 0x140008, past"),
        ("hand.write_descriptor(3, 0, 0xFFFFFFFF, DESC_F_WRITE); hand.offer(3)", "descriptor 3 ends at 0xffffffff"),
        (
            "hand.write_descriptor(3, 0, size, DESC_F_WRITE | DESC_F_NEXT, 4); "
            "hand.write_descriptor(4, 0, 1, DESC_F_WRITE); hand.offer(3)",
            "descriptor 4 makes a chain of 0x140001 bytes, over 0x140000",
        ),
        ("hand.offer(64)", "descriptor 64 was offered, but the table has 64"),
        ("hand.set_word(layout.avail_idx, 65)", "the available index jumps to 65"),
    ],
)
def test_a_request_for_entropy_that_cannot_be_met_is_one_sentence(body: str, sentence: str, tmp_path: Path) -> None:
    code, said = run_guest(tmp_path, ENTROPY.format(body=body), "--rng")
    assert (code, said.startswith(f"rng queue 0: {sentence}")) == (1, True), said
