"""A hostile Guest ends in one sentence and exit code 1, with its user's terminal as it was, and nothing left behind.

Each of these is a Guest in a .py file, run by the program at a terminal. tests/unit/test_malformed_rings.py holds the
same against the queue alone; here it is the way out that is tested.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sessions import PATIENCE_S, session

HEAD = """
from launcher.api import Notify, Shutdown
from launcher.engines.python import COMPUTE, HALT, panic
from launcher.guests.support import find_device
from shared.virtio import *
from tests.support.rings import Hand

TABLE, DATA = 0x2000, 0x8000
"""

# A console that is started, and a hand on one of its rings.
RING = """
def run(cpu):
    console = find_device(cpu, CONSOLE, "hostile")
    yield from console.start({features})
    hand = Hand(cpu.memory, console.rings[{queue}])
    size = cpu.memory.size
    {body}
    yield Notify(hand.layout.desc)
    while True:
        yield HALT
"""

OUTPUT = "console queue 1: "
MALFORMED = {
    "the index jumps": (
        "hand.set_word(hand.layout.avail_idx, 65)",
        "the available index jumps to 65: 65 chains wait and 0 are in flight, but the ring has 64",
    ),
    "the index goes back": (
        "hand.set_word(hand.layout.avail_idx, -1)",
        "the available index jumps to 65535: 65535 chains wait and 0 are in flight, but the ring has 64",
    ),
    "the head is too high": ("hand.offer(64)", "descriptor 64 was offered, but the table has 64"),
    "the chain goes on too high": (
        "hand.write_descriptor(3, flags=DESC_F_NEXT, next_=64); hand.offer(3)",
        "descriptor 3 goes on at 64, but the table has 64",
    ),
    "the chain loops to itself": (
        "hand.write_descriptor(3, length=1, flags=DESC_F_NEXT, next_=3); hand.offer(3)",
        "descriptor 3 goes on after as many as the table has, 64: the chain is a loop",
    ),
    "the chain loops in two": (
        "[hand.write_descriptor(n, length=1, flags=DESC_F_NEXT, next_=1 - n) for n in (0, 1)]; hand.offer(0)",
        "descriptor 1 goes on after as many as the table has, 64: the chain is a loop",
    ),
    "readable after writable": (
        "hand.write_descriptor(3, flags=DESC_F_NEXT | DESC_F_WRITE, next_=4); hand.write_descriptor(4); hand.offer(3)",
        "descriptor 4 is to be read, but follows one to be written",
    ),
    "a writable output": (
        "hand.write_descriptor(3, flags=DESC_F_WRITE); hand.offer(3)",
        "descriptor 3 is a buffer of output that the device is to write",
    ),
    "past the end of memory": (
        "hand.write_descriptor(7, size - 0x1000, 0x2000); hand.offer(7)",
        "descriptor 7 ends at 0x141000, past guest memory (0x140000)",
    ),
    "around 64 bits": (
        "hand.write_descriptor(7, (1 << 64) - 4, 8); hand.offer(7)",
        "descriptor 7 ends at 0x10000000000000004, past guest memory (0x140000)",
    ),
    "no length": ("hand.write_descriptor(3, length=0); hand.offer(3)", "descriptor 3 has no length"),
    "a huge length": (
        "hand.write_descriptor(3, 0, 0xFFFFFFFF); hand.offer(3)",
        "descriptor 3 ends at 0xffffffff, past guest memory (0x140000)",
    ),
    "more than memory together": (
        "hand.write_descriptor(3, 0, size, DESC_F_NEXT, 4); hand.write_descriptor(4, 0, 1); hand.offer(3)",
        "descriptor 4 makes a chain of 0x140001 bytes, over 0x140000",
    ),
    "an odd indirect table": (
        "hand.write_descriptor(3, TABLE, 24, DESC_F_INDIRECT); hand.offer(3)",
        "descriptor 3 has an indirect table of 24 bytes, not a multiple of 16",
    ),
    "an empty indirect table": (
        "hand.write_descriptor(3, TABLE, 0, DESC_F_INDIRECT); hand.offer(3)",
        "descriptor 3 has no length",
    ),
    "an indirect table past the end": (
        "hand.write_descriptor(3, size - 16, 32, DESC_F_INDIRECT); hand.offer(3)",
        "descriptor 3 ends at 0x140010, past guest memory (0x140000)",
    ),
    "an indirect table that goes on": (
        "hand.write_descriptor(3, TABLE, 32, DESC_F_INDIRECT | DESC_F_NEXT, 4); hand.offer(3)",
        "descriptor 3 is indirect, but goes on",
    ),
    "a nested indirect table": (
        "hand.write_descriptor(0, TABLE, 16, DESC_F_INDIRECT, table=TABLE); "
        "hand.write_descriptor(3, TABLE, 16, DESC_F_INDIRECT); hand.offer(3)",
        "descriptor 3 has an indirect table whose descriptor 0 is indirect again",
    ),
    "a loop in an indirect table": (
        "hand.write_descriptor(0, length=1, flags=DESC_F_NEXT, next_=0, table=TABLE); "
        "hand.write_descriptor(3, TABLE, 16, DESC_F_INDIRECT); hand.offer(3)",
        "descriptor 3 has an indirect table whose descriptor 0 goes on after as many as the table has, 1: "
        "the chain is a loop",
    ),
}


def expect_the_end(tmp_path: Path, source: str, sentence: str, keys: bytes = b"") -> None:
    guest = tmp_path / "hostile.py"
    guest.write_text(HEAD + source)
    with session("run", "--memory", "1", "--waker", "thread/select", str(guest)) as at:
        if keys:
            at.wait_until_it_runs()
            at.type(keys)
        assert at.finish() == 1
        assert at.sentence() == sentence.format(guest=guest)


@pytest.mark.parametrize(("body", "sentence"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_output_ring_is_one_sentence(tmp_path: Path, body: str, sentence: str) -> None:
    source = RING.format(queue=1, body=body, features="")
    expect_the_end(tmp_path, source, OUTPUT + sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("hand.write_descriptor(0); hand.offer(0)", "descriptor 0 is a buffer for input that the device cannot write"),
        ("hand.offer(99)", "descriptor 99 was offered, but the table has 64"),
        (
            "hand.set_word(hand.layout.avail_idx, 1000)",
            "the available index jumps to 1000: 1000 chains wait and 0 are in flight, but the ring has 64",
        ),
    ],
)
def test_a_malformed_input_ring_is_one_sentence_when_somebody_types(tmp_path: Path, body: str, sentence: str) -> None:
    source = RING.format(queue=0, body=body, features="")
    expect_the_end(tmp_path, source, f"console queue 0: {sentence}", keys=b"x")


def test_an_indirect_table_that_was_not_negotiated_is_one_sentence(tmp_path: Path) -> None:
    body = "hand.write_descriptor(3, TABLE, 16, DESC_F_INDIRECT); hand.offer(3)"
    source = RING.format(queue=1, body=body, features="0")
    expect_the_end(tmp_path, source, f"{OUTPUT}descriptor 3 is indirect, which was not negotiated")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("status(FAILED)", "guest: gave console up (status 0x80)"),
        ("status(0xFF)", "guest: gave console up (status 0xff)"),
        (
            "view(acked, 4)[:] = b'\\xff' * 4; status(DRIVER_OK)",
            "guest: acknowledged features 0xffffffff of console, which offers 0x30000000",
        ),
    ],
)
def test_a_bad_status_is_one_sentence(tmp_path: Path, body: str, sentence: str) -> None:
    source = f"""
def run(cpu):
    view = cpu.memory.view
    acked = find_device(cpu, CONSOLE, "hostile").acked_addr
    def status(value):
        view(cpu.device_page + 4, 1)[0] = value
    {body}
    yield Notify(cpu.device_page)
    while True:
        yield HALT
"""
    expect_the_end(tmp_path, source, sentence)


@pytest.mark.parametrize(
    ("addr", "sentence"),
    [
        ("0", "guest: notified 0x0, where neither a device nor a ring is"),
        ("cpu.device_page + 1", "guest: notified 0x100001, where neither a device nor a ring is"),
        ("1 << 80", "guest: notified 0x100000000000000000000, where neither a device nor a ring is"),
        ("-1", "guest: notified -0x1, where neither a device nor a ring is"),
        ("cpu.device_page + 4096", "guest: notified queue 0 of console before DRIVER_OK"),
    ],
)
def test_a_bad_notification_is_one_sentence(tmp_path: Path, addr: str, sentence: str) -> None:
    expect_the_end(tmp_path, f"def run(cpu):\n    while True:\n        yield Notify({addr})", sentence)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("panic('\\x1b[2J\\x1b]0;owned\\x07')", r"\x1b[2J\x1b]0;owned\x07"),
        ("panic('two\\nlines\\rand\\ttabs\\0')", r"two\nlines\rand\ttabs\x00"),
        ("panic('\\u202eright to left')", r"\u202eright to left"),
        ("panic('\\udcff')", r"\udcff"),
        ("panic('')", "crashed without a reason"),
        ("panic('x' * 100_000)", "x" * 256),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyError('a\\nb')", r"KeyError: 'a\nb'"),
    ],
)
def test_a_crash_reason_cannot_speak_to_the_terminal(tmp_path: Path, source: str, reason: str) -> None:
    # Doubled: the sentence is a format string.
    escaped = reason.replace("{", "{{").replace("}", "}}")
    expect_the_end(tmp_path, f"def run(cpu):\n    {source}\n    yield", f"guest {{guest}} died: {escaped}")


def test_a_guest_that_never_stops_notifying_can_be_stopped(tmp_path: Path) -> None:
    guest = tmp_path / "busy.py"
    guest.write_text(HEAD + "def run(cpu):\n    while True:\n        yield Notify(cpu.device_page)")
    with session("run", "--waker", "thread/select", str(guest)) as at:
        at.wait_until_it_runs()
        at.process.terminate()
        assert at.process.wait(PATIENCE_S) == 130
        at.finish()
        assert at.sentence() == "stopped by SIGTERM"


def test_a_guest_that_offers_one_buffer_over_and_over_hears_its_own_echo_and_no_more(tmp_path: Path) -> None:
    source = """
def run(cpu):
    console = find_device(cpu, CONSOLE, "flood")
    yield from console.start()
    hand = Hand(cpu.memory, console.rings[1])
    cpu.memory.view(DATA, 2)[:] = b"x\\n"
    hand.write_descriptor(0, length=2)
    for _ in range(100):
        hand.offer(*[0] * 64)
        yield Notify(hand.layout.desc)
    yield Shutdown()
"""
    guest = tmp_path / "flood.py"
    guest.write_text(HEAD + source)
    with session("run", "--waker", "thread/select", str(guest)) as at:
        assert at.finish() == 0
        assert at.shown == b"x\r\n" * 6400
