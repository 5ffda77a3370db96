"""The same Guest with the same input says the same on every engine, byte for byte, and ends with the same code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from launcher import engines, guests
from tests.support.netblk import Client
from tests.support.network import own_network
from tests.support.pong import HOST, Echoes, Pong, echo_datagrams, ping
from tests.support.sessions import last_sentence, run_launcher, skip_unless_it_runs

WAKER = "process/select"
ENTROPY = bytes(range(64))
SECTORS = 200
EVERY_BYTE = bytes(byte for byte in range(256) if byte != 4)


class Way(NamedTuple):
    """How a Guest is run so that what it says depends on nothing else.

    In `options` FILE is a file that holds `ENTROPY`, and DISK an empty disk of so many `SECTORS`. With `ask` it runs in
    a network of its own, says a line when it is ready, is asked there, and only then comes what is typed.
    """

    options: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    typed: bytes = b""
    says_something: bool = True
    code: int = 0
    ask: Callable[[], None] | None = None


class Said(NamedTuple):
    """What came of a run: the transcript, the exit code, and why it was not 0."""

    transcript: bytes
    code: int
    reason: str


def ask_for_echoes() -> None:
    assert len(ping(5)) == 5
    assert echo_datagrams(50, seed=6) == Echoes(50, 0, 0)


def ask_for_sectors() -> None:
    with Client() as client:
        client.load(bytearray(SECTORS * 512), 50, depth=8, seed=7)


WAYS = {
    "all": Way(options=("--rng", "--block=DISK"), typed=EVERY_BYTE + b"\x04", ask=ask_for_echoes),
    "blk": Way(options=("--block=DISK",), args=("all", "77")),
    "echo": Way(typed=EVERY_BYTE * 20 + b"\x04"),
    "idle": Way(options=("--timeout=0.5",), says_something=False, code=1),
    "net-blk": Way(options=("--block=DISK",), typed=b"\x04", ask=ask_for_sectors),
    "pong": Way(typed=b"\x04", ask=ask_for_echoes),
    "restart": Way(typed=b"rxrs"),
    "rng": Way(options=("--rng-file=FILE",)),
    "say": Way(args=("one", "", "with a space", "ümlaut")),
    "spin": Way(options=("--timeout=0.5",), says_something=False, code=1),
}
WITHOUT_DEVICE = {
    "all": "a network (run with --tunnet)",
    "blk": "a disk (run with --block FILE)",
    "net-blk": "a network (run with --tunnet)",
    "pong": "a network (run with --tunnet)",
    "rng": "entropy (run with --rng)",
}


def run(guest: str, way: Way, engine: str, folder: Path) -> Said:
    skip_unless_it_runs(WAKER, engine)
    entropy, disk = folder / "entropy", folder / "disk"
    entropy.write_bytes(ENTROPY)
    disk.write_bytes(bytes(SECTORS * 512))
    options = [option.replace("FILE", str(entropy)).replace("DISK", str(disk)) for option in way.options]
    options += [f"--engine={engine}", f"--waker={WAKER}"]
    if way.ask is None:
        done = run_launcher("run", *options, guest, *way.args, input=way.typed)
        return Said(done.stdout, done.returncode, last_sentence(done.stderr) if done.returncode else "")
    with own_network(), Pong(*options, tunnet=f"{HOST}/24", image=guest) as running:
        way.ask()
        code, said = running.finish(way.typed)
        return Said(running.transcript, code, last_sentence(said.encode()) if code else "")


def on_every_engine(guest: str, way: Way, folder: Path) -> dict[str, Said]:
    said = {name: run(guest, way, name, folder) for name in engines.names() if engines.get(name).why_not() is None}
    if len(said) < 2:
        pytest.skip("one engine alone runs here: there is nothing to compare")
    return said


def test_every_guest_that_there_is_has_its_way() -> None:
    assert sorted(WAYS) == guests.names()


@pytest.mark.parametrize("guest", WAYS)
def test_a_guest_says_the_same_on_every_engine(guest: str, tmp_path: Path) -> None:
    way = WAYS[guest]
    said = on_every_engine(guest, way, tmp_path)
    assert len(set(said.values())) == 1, said
    transcript, code, _ = said.popitem()[1]
    assert (bool(transcript), code) == (way.says_something, way.code)


@pytest.mark.parametrize("guest", WITHOUT_DEVICE)
def test_a_guest_that_lacks_its_device_dies_of_the_same_on_every_engine(guest: str, tmp_path: Path) -> None:
    said = on_every_engine(guest, Way(), tmp_path)
    reason = f"guest {guest} died: {guest}: {WITHOUT_DEVICE[guest]}: not on the device page"
    assert set(said.values()) == {Said(b"", 1, reason)}
