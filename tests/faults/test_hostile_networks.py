"""A Guest that abuses its network ends in one sentence or loses frames, and a Waker that is killed loses none.

Whole Launchers, each in a network of its own; tests/unit/test_net.py and tests/property/test_net_properties.py try the
device alone with far more.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.network import interfaces, own_network
from tests.support.pong import HOST, Echoes, Pong, echo_datagrams, pong
from tests.support.sessions import last_sentence, run_launcher, skip_unless_it_runs

HEAD = """
from launcher.api import Notify, Shutdown
from launcher.engines.python import HALT
from launcher.guests.support import do, find_device
from shared.virtio import *
from tests.support.rings import Hand

DATA = 0x8000
"""
HOSTILE = """
def run(cpu):
    net = find_device(cpu, NET, "hostile")
    yield from net{start}
    hand = Hand(cpu.memory, net.rings[1])
    size = cpu.memory.size
    {body}
    yield Notify(hand.layout.desc)
    while True:
        yield HALT
"""
# It says so on the console when it is ready, and shuts down when something is typed.
WAITING = """
def run(cpu):
    net = find_device(cpu, NET, "waiting")
    received, sent = yield from net.start()
    typed, said = yield from find_device(cpu, CONSOLE, "waiting").start()
    hand = Hand(cpu.memory, net.rings[1])
    {body}
    cpu.memory.view(DATA, 6)[:] = b"ready\\n"
    yield from do(said, [(DATA, 6)], [])
    {then}
    yield from do(typed, [], [(DATA, 1)])
    yield Shutdown()
"""


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("hand.write_descriptor(3, flags=DESC_F_WRITE); hand.offer(3)", "3 is a frame to send that the device is to"),
        ("hand.write_descriptor(3, length=9); hand.offer(3)", "3 holds 9 bytes, less than the header of 10"),
        ("hand.write_descriptor(3, length=0); hand.offer(3)", "3 has no length"),
        ("hand.write_descriptor(3, 0, 0xFFFFFFFF); hand.offer(3)", "3 ends at 0xffffffff, past guest memory"),
        ("hand.write_descriptor(3, size - 8, 64); hand.offer(3)", "3 ends at 0x"),
        ("hand.offer(128)", "128 was offered, but the table has 128"),
    ],
)
def test_a_malformed_ring_to_send_from_is_one_sentence(tmp_path: Path, body: str, sentence: str) -> None:
    guest = tmp_path / "hostile.py"
    guest.write_text(HEAD + HOSTILE.format(body=body, start=".start()"))
    done = run_launcher("run", "--waker=thread/select", f"--tunnet={HOST}", str(guest))
    assert done.returncode == 1
    assert last_sentence(done.stderr).startswith(f"net0 queue 1: descriptor {sentence}")
    assert interfaces() == set()


@pytest.mark.parametrize("feature", [0, 10, 15])
def test_an_offload_that_is_not_offered_cannot_be_had(tmp_path: Path, feature: int) -> None:
    guest = tmp_path / "hostile.py"
    guest.write_text(HEAD + HOSTILE.format(body="", start=f"._replace(offered=1 << {feature}).start(-1)"))
    done = run_launcher("run", "--waker=thread/select", f"--tunnet={HOST}", str(guest))
    assert done.returncode == 1
    assert last_sentence(done.stderr) == (
        f"guest: acknowledged features {1 << feature:#x} of net0, which offers 0x38000020"
    )


def waiting(tmp_path: Path, name: str, body: str = "", then: str = "") -> Pong:
    guest = tmp_path / "waiting.py"
    guest.write_text(HEAD + WAITING.format(body=body, then=then))
    return Pong("--verbose", "--engine=python", f"--waker={name}", image=str(guest))


def test_a_buffer_that_cannot_be_written_is_one_sentence_when_a_frame_comes(tmp_path: Path) -> None:
    then = """
    hand = Hand(cpu.memory, net.rings[0])
    hand.write_descriptor(3)
    hand.offer(3)
    yield Notify(hand.layout.desc)
"""
    with waiting(tmp_path, "thread/select", then=then) as running:
        flood_from_host(1)
        code, said = running.wait()
    assert (code, said.splitlines()[1]) == (
        1,
        "launcher: net0 queue 0: descriptor 3 is a buffer for a frame that the device cannot write",
    )


def flood_from_host(count: int) -> None:
    """Send so many broadcasts; what the interface has no room for, it drops."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(count):
            flood.sendto(b"hello", ("192.168.77.255", 7))


@pytest.mark.parametrize("name", ["process/select", "inline/uring", "thread/epoll+ring-aware"])
def test_a_guest_that_never_gives_a_buffer_costs_nothing(tmp_path: Path, name: str) -> None:
    skip_unless_it_runs(name, "python")
    with waiting(tmp_path, name) as running:
        flood_from_host(2000)
        code, said = running.finish()
    counted = re.search(r"(\d+) breaks taken", said)
    assert (code, counted is not None) == (0, True), said
    assert counted is not None
    assert int(counted[1]) < 20


def test_a_guest_that_floods_the_host_with_nonsense_hears_no_complaint(tmp_path: Path) -> None:
    body = """
    for at, length in enumerate((10, 11, 23, 24, 1528, 1529, 0x7000)):
        hand.write_descriptor(at, length=length)
    cpu.memory.view(0x9000, 2)[:] = b"\\xff\\xff"
    hand.write_descriptor(7, 0x9000, 64)
    for _ in range(50):
        hand.offer(*[at % 8 for at in range(128)])
        yield Notify(hand.layout.desc)
"""
    with waiting(tmp_path, "process/select", body) as running:
        assert running.finish()[0] == 0
    assert interfaces() == set()


@pytest.mark.parametrize("place", ["process", "fork"])
def test_a_waker_that_is_killed_loses_no_frame(place: str) -> None:
    with pong("--engine=python", f"--waker={place}/select") as running:
        for seed in range(4):
            (killed,) = psutil.Process(running.process.pid).children()
            killed.send_signal(signal.SIGKILL)
            assert echo_datagrams(100, seed) == Echoes(100, 0, 0)
