"""`launcher run --tunnet … pong` in a network of its own: real interfaces, real bridges, real pings."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Iterator

import pytest

from launcher import engines
from launcher.guests.answers import turn_round
from tests.support.frames import GUEST_ADDR, GUEST_MAC, HOST_ADDR, NOT_ANSWERED, arp, mixed_frames
from tests.support.network import (
    Wire,
    addresses,
    delete_link,
    interfaces,
    make_bridge,
    own_network,
    ports_of,
    set_link,
)
from tests.support.pong import HOST, Echoes, Pong, echo_datagrams, ping, pong
from tests.support.sessions import ROOT, last_sentence, only_sentence, run_launcher, skip_unless_it_runs
from tests.support.until import until

# Every engine, and a Waker of each kind that a TAP could trouble: scripts/ping tries the others, with more of it.
RUNS = [(engine, name) for engine in engines.names() for name in ("process/select", "inline/uring")]
every_run = pytest.mark.parametrize(("engine", "name"), RUNS)

ETHERNET_HEADER = 14
_PR_CAPBSET_DROP, _CAP_NET_ADMIN = 24, 12


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


@every_run
def test_pings_and_datagrams_come_back_and_the_interface_goes(engine: str, name: str) -> None:
    skip_unless_it_runs(name, engine)
    with pong(f"--engine={engine}", f"--waker={name}") as running:
        assert running.said == "pong: 02:00:c0:a8:4d:01, 192.168.77.2\n"
        assert interfaces() == {"lguest0"}
        assert addresses("lguest0") == {f"{HOST}/24"}
        assert len(ping(20)) == 20
        assert len(ping(2, size=1472)) == 2
        assert len(ping(2, size=0)) == 2
        assert echo_datagrams(300, seed=1) == Echoes(300, 0, 0)
        assert echo_datagrams(20, seed=2, port=12345) == Echoes(20, 0, 0)
    assert interfaces() == set()


@pytest.mark.parametrize("name", ["thread/select", "fork/select", "inline/sigio", "process/select+ring-aware"])
def test_more_than_the_guest_has_buffers_for_waits_in_the_interface(name: str) -> None:
    skip_unless_it_runs(name, "python")
    with pong("--engine=python", f"--waker={name}"):
        assert len(ping(3)) == 3
        assert echo_datagrams(600, seed=3, window=128) == Echoes(600, 0, 0)


def turned(frame: bytes) -> bytes | None:
    """Return what the Guest in Python answers."""
    copy = bytearray(frame)
    return bytes(copy) if turn_round(memoryview(copy), GUEST_MAC, GUEST_ADDR) else None


@pytest.mark.parametrize("engine", engines.names())
def test_both_guests_answer_the_same_to_right_and_wrong_frames(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    with pong(f"--engine={engine}", "--waker=process/select"), Wire("lguest0") as wire:
        told = turned(arp())
        assert told is not None
        for frame in [*mixed_frames(200, seed=5), *NOT_ANSWERED.values()]:
            if len(frame) < ETHERNET_HEADER or (answer := turned(frame)) == told:
                continue
            assert wire.exchange([frame, arp()], until=told) == [answer, told] if answer else [told], frame.hex()


def test_two_networks_of_one_guest_are_two_interfaces() -> None:
    with Pong("--engine=python", "--waker=thread/select", "--tunnet=10.9.8.5/30") as running:
        assert interfaces() == {"lguest0", "lguest1"}
        assert (addresses("lguest0"), addresses("lguest1")) == ({f"{HOST}/24"}, {"10.9.8.5/30"})
        assert len(ping(3)) == 3
        assert running.finish()[0] == 0


@pytest.mark.parametrize("engine", engines.names())
def test_a_port_of_a_bridge_answers_and_leaves_the_bridge(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    make_bridge("br0", HOST)
    with pong(f"--engine={engine}", tunnet="bridge:br0") as running:
        (port,) = ports_of("br0")
        assert addresses(port) == set()
        assert int(running.said.split()[1].split(":")[0], 16) & 3 == 2, "locally administered, and no group's"
        assert len(ping(3)) == 3
        assert echo_datagrams(50, seed=4) == Echoes(50, 0, 0)
    assert ports_of("br0") == set()
    assert interfaces() == {"br0"}


def test_a_launcher_that_is_killed_leaves_no_interface_and_no_port() -> None:
    make_bridge("br0", HOST)
    with Pong("--engine=python", tunnet="bridge:br0") as running:
        assert len(ports_of("br0")) == 1
        running.process.send_signal(signal.SIGKILL)
        running.wait()
        until(lambda: interfaces() == {"br0"}, "the interface is still there")  # its Waker has it, and goes next
        assert ports_of("br0") == set()


def test_while_the_interface_is_down_frames_are_lost_and_then_it_goes_on() -> None:
    with pong("--engine=python"):
        assert len(ping(1)) == 1
        set_link("lguest0", "down")
        set_link("lguest0", "up")
        assert len(ping(3)) == 3


def test_verbose_says_what_was_moved_and_what_was_lost() -> None:
    with Pong("--engine=python", "--verbose") as running, Wire("lguest0") as wire:
        told = turned(arp())
        assert told is not None
        wire.exchange([arp(), arp(), arp(target=HOST_ADDR), arp()], until=told)
        assert len(ping(2)) == 2
        code, said = running.finish()
    assert code == 0
    found = re.fullmatch(
        r"launcher: net0 \(lguest0\): (\d+) frames received and 0 dropped, (\d+) sent and 0 dropped",
        said.splitlines()[-1],
    )
    assert found is not None, said
    assert int(found[1]) > int(found[2]) >= 5


@pytest.mark.parametrize("name", ["process/select", "thread/epoll", "inline/uring"])
def test_an_interface_that_is_deleted_is_one_sentence(name: str) -> None:
    with Pong("--engine=python", f"--waker={name}") as running:
        delete_link("lguest0")
        code, said = running.wait()
    assert (code, last_sentence(said.encode())) == (
        1,
        "net0: interface lguest0 was deleted under the Guest; leave that to the Launcher",
    )


@pytest.mark.parametrize(
    ("tunnet", "sentence"),
    [
        ("bridge:br9", "there is no bridge 'br9'; make it first (ip link add br9 type bridge)"),
        ("bridge:lo", "'lo' is no bridge; name one, or give an address"),
    ],
)
def test_what_is_no_bridge_is_one_sentence(tunnet: str, sentence: str) -> None:
    done = run_launcher("run", "--engine=python", f"--tunnet={tunnet}")
    assert (done.returncode, done.stderr.decode()) == (1, f"launcher: --tunnet '{tunnet}': {sentence}\n")
    assert interfaces() == set()


def test_one_that_cannot_be_had_takes_the_others_along() -> None:
    done = run_launcher("run", "--engine=python", f"--tunnet={HOST}", "--tunnet=bridge:br9")
    assert done.returncode == 1
    assert interfaces() == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give away")
def test_without_the_rights_it_says_which_in_one_sentence() -> None:
    libc = ctypes.CDLL(None)
    done = run_launcher(
        "run",
        "--engine=python",
        f"--tunnet={HOST}",
        preexec_fn=lambda: libc.prctl(_PR_CAPBSET_DROP, _CAP_NET_ADMIN, 0, 0, 0),
    )
    assert done.returncode == 1
    assert only_sentence(done.stderr) == (
        f"--tunnet '{HOST}' needs CAP_NET_ADMIN and a /dev/net/tun that may be opened: run as root, "
        "or in a namespace (unshare -rn)"
    )


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "a network (run with --tunnet): not on the device page"),
        ((f"--tunnet={HOST}",), "its first argument is to be its IPv4 address"),
        ((f"--tunnet={HOST}", "1.2.3"), "its first argument is to be its IPv4 address"),
        ((f"--tunnet={HOST}", "1.2.3.256"), "its first argument is to be its IPv4 address"),
        ((f"--tunnet={HOST}", "1.2.3.04"), "its first argument is to be its IPv4 address"),
        ((f"--tunnet={HOST}", "1.2.3.4x"), "its first argument is to be its IPv4 address"),
    ],
)
def test_pong_says_what_it_needs(engine: str, args: tuple[str, ...], sentence: str) -> None:
    skip_unless_it_runs("thread/select", engine)
    options = [arg for arg in args if arg.startswith("-")]
    done = run_launcher(
        "run", f"--engine={engine}", "--waker=thread/select", *options, "pong", *args[len(options) :], cwd=ROOT
    )
    assert done.returncode == 1
    assert last_sentence(done.stderr) == f"guest pong died: pong: {sentence}"
