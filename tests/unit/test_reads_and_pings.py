"""What cases `block` and `ping` check themselves: that the right bytes came, and the right answers."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import engines, image
from launcher.bench.duels.rota import choose_rings
from launcher.bench.duels.sides import parse
from launcher.bench.measure import namespace, reads
from launcher.bench.measure.cases import get, why_nobody
from launcher.bench.measure.ledger import PUBLISHED, SERVED, Ledger
from launcher.bench.measure.pinged import Pinged
from launcher.bench.measure.props import BUFFERS_ADDR, Served
from launcher.bench.measure.reads import Reads, content
from launcher.bench.measure.session import ArmPlan, choose_amount
from launcher.bench.measure.stimulus import UNDER_WAY, Pings, WrongAnswer, datagram, payload, stream
from launcher.guests import image_path
from shared.errors import CannotRunError, LabError, UsageError
from shared.memory import GuestMemory
from shared.vring_layout import VringLayout
from tests.support.network import own_network
from tests.support.sessions import ROOT

MEMORY_SIZE, RINGS_ADDR = 0x200000, 0x1000
RINGS = 20


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    fd = Ledger.create(RINGS)
    with Ledger(fd) as ledger:
        yield ledger
    os.close(fd)


@pytest.fixture
def disk(ledger: Ledger) -> Iterator[Reads]:
    with GuestMemory.create(MEMORY_SIZE) as memory:
        wanted: dict[str, int | str] = {"depth": 2, "bytes": 1024, "size_mib": 1, "io": "thread"}
        disk = Reads(memory, MEMORY_SIZE, ledger, Served(ledger, None), 1, wanted)
        disk.attach([VringLayout.contiguous(128, RINGS_ADDR)])
        yield disk
        disk.close()


def serve(disk: Reads) -> None:
    """Be the Waker and the loop, once."""
    (source,) = disk.attach([VringLayout.contiguous(128, RINGS_ADDR)])
    select.select([source.fd], [], [])
    disk.on_ready(source)


def test_as_many_reads_are_in_flight_as_were_asked_for_until_all_are_done(disk: Reads, ledger: Ledger) -> None:
    disk.begin()
    assert ledger.words[PUBLISHED] == 2
    while ledger.words[SERVED] < RINGS:
        assert ledger.words[PUBLISHED] == min(ledger.words[SERVED] + 2, RINGS)
        serve(disk)
        assert disk.lines() == (0,)


def test_a_read_that_brings_other_bytes_is_noticed(disk: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "content", lambda unit, size: content(unit, size)[:-1] + b"!")
    disk.begin()
    with pytest.raises(LabError, match=r"read \d+ did not bring what is at byte \d+ of the disk"):
        serve(disk)


def test_a_row_is_served_once(ledger: Ledger) -> None:
    served = Served(ledger, None)
    served.note_row(3, 5)
    for number in (3, RINGS):
        with pytest.raises(LabError, match=f"ring {number} was answered, which nobody waits for"):
            served.note_row(number, 6)


@pytest.mark.parametrize("guest", ["idle", "spin"])
def test_the_harness_buffers_lie_above_the_guest_that_runs_beside_them(guest: str) -> None:
    with GuestMemory.create(0x400000) as memory:
        image.load(image_path(guest), memory, memory.size)
        assert not any(memory.view(BUFFERS_ADDR, memory.size - BUFFERS_ADDR))


# ---- The stimulus of case `ping` ----


@pytest.fixture
def pinged() -> Iterator[tuple[Pings, socket.socket]]:
    """The stimulus, and the other end of what it asks by."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pings = Pings([str(ours.detach()), "16"])
    with theirs:
        yield pings, theirs
    pings.close()


def test_an_answer_is_what_was_asked(pinged: tuple[Pings, socket.socket]) -> None:
    pings, guest = pinged
    for number in range(3):
        pings(0, number)
        guest.send(guest.recv(100))
    pings.finish(3)


def test_an_answer_to_another_question_is_noticed(pinged: tuple[Pings, socket.socket]) -> None:
    pings, guest = pinged
    pings(0, 0)
    guest.send(datagram(0, 16)[:-1] + b"!")
    with pytest.raises(WrongAnswer, match="number 0"):
        pings(0, 1)


def test_an_answer_that_is_missing_holds_up_no_other_and_is_told_at_the_end(
    pinged: tuple[Pings, socket.socket],
) -> None:
    pings, guest = pinged
    for number in range(3):
        pings(0, number)
    guest.send(datagram(0, 16))
    guest.send(datagram(2, 16))
    pings(0, 3)
    guest.send(datagram(3, 16))
    with pytest.raises(WrongAnswer, match="1 of 4 answers did not come back"):
        pings.finish(4)
    guest.send(datagram(1, 16))  # late is wrong, too
    with pytest.raises(WrongAnswer, match="number 4"):
        pings(0, 4)


def test_the_last_answer_is_not_waited_for_for_ever(
    pinged: tuple[Pings, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.bench.measure.stimulus._STRAGGLER_S", 0.01)
    pings, guest = pinged
    pings(0, 0)
    guest.recv(100)
    with pytest.raises(WrongAnswer, match="1 of 1 answers did not come back"):
        pings.finish(1)


def test_who_is_far_behind_is_waited_for(pinged: tuple[Pings, socket.socket]) -> None:
    pings, guest = pinged
    guest.setblocking(False)
    pings.under_way = 4
    for number in range(4):
        pings(0, number)
    guest.send(datagram(0, 16))
    pings.make_room(4)  # would not come back without the answer
    pings(0, 4)
    guest.send(datagram(1, 16))
    pings.make_room(5)


@pytest.mark.parametrize("size", [8, 64, 1472])
def test_no_more_are_under_way_than_the_sockets_queue_holds(size: int) -> None:
    asker, answerer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with answerer:
        answerer.bind(("127.0.0.1", 0))
        asker.bind(("127.0.0.1", 0))
        asker.connect(answerer.getsockname())
        answerer.connect(asker.getsockname())
        pings = Pings([str(asker.detach()), str(size)])
        for number in range(pings.under_way):  # nobody reads meanwhile
            answerer.send(datagram(number, size))
        pings.finish(pings.under_way)
        pings.close()
    assert 1 < pings.under_way <= UNDER_WAY


@pytest.mark.parametrize(("at", "size"), [(0, 0), (1, 1), (63, 2), (64 * 9 + 5, 300), (7, 65536)])
def test_each_byte_of_what_is_typed_tells_its_place(at: int, size: int) -> None:
    assert stream(at, size) == bytes(0x20 + (at + each) % 64 for each in range(size))


def test_the_smallest_datagram_is_its_number() -> None:
    assert datagram(258, 8) == b"\x02\x01" + bytes(6)
    assert datagram(1, 11) == b"\x01" + bytes(7) + payload(1, 3)


# ---- The network that pings go through ----


def test_what_the_interface_did_not_take_is_counted_and_no_other_thing(ledger: Ledger) -> None:
    with own_network():
        device = Pinged(Served(ledger, None), None)
        try:
            with device.open_socket() as asker:
                for number in range(UNDER_WAY):
                    asker.send(datagram(number, 64))
                assert device.dropped() == 0  # nobody reads, and all of these are in its queue
                for number in range(10_000):
                    asker.send(datagram(number, 64))
            assert device.dropped() > 0
        finally:
            device.close()


def test_without_a_tap_there_is_no_ping_and_the_reason_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "_TUN", str(tmp_path / "tun"))
    with pytest.raises(CannotRunError, match=r"it needs a TAP, and .*/tun may not be opened here; load the module tun"):
        namespace.enter()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up single rights")
def test_a_network_in_which_no_tap_can_be_made_is_none() -> None:
    may_not = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    argv = [*may_not, sys.executable, "-S", "-P", "-m", "launcher.bench.measure.namespace"]
    done = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "it needs a TAP, and none can be made here (Operation not permitted); run as root\n"


def test_why_there_is_no_network_is_said_for_each_waker_and_only_of_this_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "missing", lambda: "there is none")
    assert get("ping").why_not("thread/poll", "python") == "there is none"
    assert why_nobody(get("ping")) in ("there is none", engines.get("kvm").why_not())
    assert get("block").why_not("thread/poll", "python") is None


# ---- The cases ----


def test_a_closed_loop_has_a_warm_up_and_no_clock() -> None:
    parameters = get("block").parameters
    assert "warmup" in parameters
    assert not {"idle_us", "gaps", "lead_us"} & set(parameters)


def test_a_duel_and_a_bench_know_how_many_reads_to_make() -> None:
    case = get("block")
    assert choose_rings(case, [parse(case, "process/select", "python")]) == 1000
    amount = choose_amount(case, [ArmPlan("a", "python", "a", case.defaults())], None, 5.0)
    assert amount.rings == 1000


def test_pings_are_as_far_apart_as_a_guest_can_answer() -> None:
    assert get("ping").defaults()["idle_us"] == 2000.0
    assert list(get("ping").parameters)[:2] == ["payload", "idle_us"]


@pytest.mark.parametrize(
    ("text", "said"), [("bytes=1000", "no multiple of 512"), ("depth=43", "outside 1 to 42"), ("io=fast", "is none of")]
)
def test_a_read_that_no_disk_has_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        get("block").parse(*text.split("="))
