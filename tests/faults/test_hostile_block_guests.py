"""A Guest that is hostile to its disk: what the protocol has an error for is one; the rest ends in one sentence.

tests/unit/test_block.py tries every bad request on the device alone; here whole Launchers are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sessions import run_launcher

HEAD = """
from struct import pack
from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT, panic
from launcher.guests.support import find_device
from shared.virtio import *
from tests.support.rings import Hand

DATA = 0x8000

def run(cpu):
    disk = find_device(cpu, BLOCK, "hostile")
    (queue,) = yield from disk.start()
    hand = Hand(cpu.memory, disk.rings[0])
    view = cpu.memory.view
    view(DATA, 16)[:] = pack("<IIQ", BLK_T_OUT, 0, 0)
"""

TAIL = """
    yield Notify(hand.layout.desc)
    while True:
        yield HALT
"""

ENDS = {
    "no status": (
        "hand.write_descriptor(5, length=16 + 512); hand.offer(5)",
        "block0 queue 0: descriptor 5 is a request without a byte for its status",
    ),
    "a status of no length": (
        "hand.write_descriptor(5, length=16, flags=DESC_F_NEXT, next_=6); "
        "hand.write_descriptor(6, length=0, flags=DESC_F_WRITE); hand.offer(5)",
        "block0 queue 0: descriptor 6 has no length",
    ),
    "a status before the header": (
        "hand.write_descriptor(5, length=1, flags=DESC_F_NEXT | DESC_F_WRITE, next_=6); "
        "hand.write_descriptor(6, length=16); hand.offer(5)",
        "block0 queue 0: descriptor 6 is to be read, but follows one to be written",
    ),
    "data past memory": (
        "hand.write_descriptor(5, length=16, flags=DESC_F_NEXT, next_=6); "
        "hand.write_descriptor(6, cpu.memory.size - 1, 513, DESC_F_WRITE); hand.offer(5)",
        "block0 queue 0: descriptor 6 ends at 0x140200, past guest memory (0x140000)",
    ),
    "more than the ring": (
        "hand.set_word(hand.layout.avail_idx, 129)",
        "block0 queue 0: the available index jumps to 129: 129 chains wait and 0 are in flight, but the ring has 128",
    ),
}


@pytest.mark.parametrize("io_name", ["thread", "uring"])
@pytest.mark.parametrize(("body", "sentence"), ENDS.values(), ids=ENDS.keys())
def test_what_has_no_place_for_an_error_is_one_sentence(body: str, sentence: str, io_name: str, tmp_path: Path) -> None:
    guest, disk = tmp_path / "hostile.py", tmp_path / "disk"
    guest.write_text(f"{HEAD}    {body}\n{TAIL}")
    disk.write_bytes(b"d" * 4096)
    done = run_launcher(
        "run",
        "--engine=python",
        "--memory=1",
        f"--block={disk}",
        f"--block-io={io_name}",
        "--waker=thread/select",
        str(guest),
    )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[1:] == [f"launcher: {sentence}"]
    assert disk.read_bytes() == b"d" * 4096


@pytest.mark.parametrize("io_name", ["thread", "uring"])
def test_a_ring_that_is_always_full_is_served_and_can_be_left(io_name: str, tmp_path: Path) -> None:
    """Every descriptor is a request; as soon as some come back they are offered again, 200 times over."""
    body = """
    for n in range(42):
        hand.write_descriptor(3 * n, DATA, 16, DESC_F_NEXT, 3 * n + 1)
        hand.write_descriptor(3 * n + 1, DATA + 1024, 512, DESC_F_NEXT, 3 * n + 2)
        hand.write_descriptor(3 * n + 2, DATA + 16 + n, 1, DESC_F_WRITE)
        hand.offer(3 * n)
    seen = given = 0
    yield Notify(hand.layout.desc)
    while given < 200 * 42:
        used = hand.word(hand.layout.used_idx)
        if used == seen:
            yield HALT
            continue
        while seen != used:
            element = hand.layout.used_ring + seen % 128 * 8
            hand.offer(int.from_bytes(view(element, 4), "little"))
            seen, given = (seen + 1) & 0xFFFF, given + 1
        yield Notify(hand.layout.desc)
    yield Shutdown()
"""
    guest, disk = tmp_path / "full.py", tmp_path / "disk"
    guest.write_text(HEAD.replace("disk.start()", "disk.start(0)") + body)
    disk.write_bytes(b"d" * 4096)
    done = run_launcher("run", "--engine=python", f"--block={disk}", f"--block-io={io_name}", str(guest))
    assert done.returncode == 0, done.stderr
    assert disk.read_bytes() == bytes(512) + b"d" * 3584
