"""The same Guest with the same input says the same on every engine, byte for byte, and ends with the same code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from launcher import engines, guests
from tests.support.sessions import last_sentence, run_launcher, skip_unless_it_runs

WAKER = "process/select"
ENTROPY = bytes(range(64))
EVERY_BYTE = bytes(byte for byte in range(256) if byte != 4)


class Way(NamedTuple):
    """How a Guest is run so that what it says depends on nothing else; `FILE` is a file that holds `ENTROPY`."""

    options: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    typed: bytes = b""
    says_something: bool = True
    code: int = 0


WAYS = {
    "echo": Way(typed=EVERY_BYTE * 20 + b"\x04"),
    "idle": Way(options=("--timeout=0.5",), says_something=False, code=1),
    "rng": Way(options=("--rng-file=FILE",)),
    "say": Way(args=("one", "", "with a space", "ümlaut")),
    "spin": Way(options=("--timeout=0.5",), says_something=False, code=1),
}
WITHOUT_DEVICE = {"rng": "rng: entropy (run with --rng): not on the device page"}


def run(guest: str, way: Way, engine: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    skip_unless_it_runs(WAKER, engine)
    entropy = folder / "entropy"
    entropy.write_bytes(ENTROPY)
    options = [option.replace("FILE", str(entropy)) for option in way.options]
    return run_launcher("run", f"--engine={engine}", f"--waker={WAKER}", *options, guest, *way.args, input=way.typed)


def test_every_guest_that_there_is_has_its_way() -> None:
    assert sorted(WAYS) == guests.names()


@pytest.mark.parametrize("guest", WAYS)
def test_a_guest_says_the_same_on_every_engine(guest: str, tmp_path: Path) -> None:
    way = WAYS[guest]
    said = {}
    for engine in engines.names():
        if engines.get(engine).why_not() is None:
            done = run(guest, way, engine, tmp_path)
            said[engine] = (done.stdout, done.returncode, last_sentence(done.stderr) if done.returncode else "")
    if len(said) < 2:
        pytest.skip("one engine alone runs here: there is nothing to compare")
    assert len(set(said.values())) == 1, said
    transcript, code, _ = said.popitem()[1]
    assert (bool(transcript), code) == (way.says_something, way.code)


@pytest.mark.parametrize("guest", WITHOUT_DEVICE)
def test_a_guest_that_lacks_its_device_dies_of_the_same_on_every_engine(guest: str, tmp_path: Path) -> None:
    runs = [run(guest, Way(), engine, tmp_path) for engine in engines.names() if engines.get(engine).why_not() is None]
    assert {(done.stdout, done.returncode) for done in runs} == {(b"", 1)}
    assert {last_sentence(done.stderr) for done in runs} == {f"guest {guest} died: {WITHOUT_DEVICE[guest]}"}
