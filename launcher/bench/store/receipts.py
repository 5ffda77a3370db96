"""Receipts: what was measured, a JSON line for each round, written as it comes and readable whatever happens next.

The seam between what measures and what judges. One side runs rounds and appends them; the other reads the file, today
or in three years, and knows nothing of how they were run.

A file is JSON Lines. Its first line is the run, every other a round:

    {"schema": 1, "kind": "run", "run": {...}}
    {"schema": 1, "kind": "round", "round": {...}}

A line is one write to a file opened O_APPEND, so a Launcher that is killed leaves whole lines and at most one torn at
the end. A reader leaves that one out and says so. A line that is torn elsewhere was not torn by us: such a file is
refused.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import math
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from launcher.bench.store.packing import Nanoseconds
from launcher.bench.store.records import (
    OK,
    ReceiptsError,
    Round,
    Run,
    Usage,
    round_from_json,
    round_to_json,
    run_from_json,
    run_to_json,
)
from shared.errors import EXIT_NOTHING_MEASURED, LabError, UsageError

__all__ = [
    "OK",
    "Nanoseconds",
    "NotWritten",
    "NothingMeasured",
    "Receipts",
    "ReceiptsError",
    "Round",
    "Run",
    "Usage",
    "Writer",
    "read",
]

SCHEMA: Final = 1


class NothingMeasured(LabError):  # noqa: N818 - a finding, named as one
    """Say that there is no round to judge."""

    exit_code = EXIT_NOTHING_MEASURED


@dataclass(frozen=True, slots=True)
class Receipts:
    """A file that was read: the run, its rounds in order, and what the reader had to leave out, a sentence each."""

    path: Path
    run: Run
    rounds: list[Round]
    notes: list[str]

    def of_arm(self, arm: str) -> list[Round]:
        """Return the rounds of one arm, in order."""
        return [round_ for round_ in self.rounds if round_.arm == arm]

    def arms(self) -> list[str]:
        """Return the arms there are, in order of their first round."""
        return list(dict.fromkeys(round_.arm for round_ in self.rounds))


class NotWritten(ReceiptsError):  # noqa: N818 - an event
    """Say that a receipt could not be written: the disk is full. What is in the file stays readable."""


class Writer:
    """Appends receipts to a file, one write for each; one process at a time, which a lock on the file sees to."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def create(cls, path: Path, run: Run) -> Writer:
        """Open a new file and begin it with its run; raise what `open` raises, or `NotWritten`."""
        writer = cls.open(path)
        try:
            writer.begin(run)
        except NotWritten:
            writer.close()
            raise
        return writer

    @classmethod
    def open(cls, path: Path) -> Writer:
        """Make a new file, and the folders above it; what it begins with may be known later.

        Raises `UsageError` when it is there already, `ReceiptsError` when it cannot be made.
        """
        expect_new(path)
        flags = 0 if path.exists() else os.O_CREAT | os.O_EXCL
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path, _open_for_one(path, flags))
        except OSError as error:
            raise ReceiptsError(
                f"{path} cannot be made: {error.filename}: {error.strerror}; name another file with -o, or another "
                "folder with XDG_STATE_HOME"
            ) from error

    @classmethod
    def resume(cls, path: Path) -> tuple[Writer, Receipts]:
        """Go on with a file that may have been cut short: cut off a torn last line; return also what is there.

        Raises `ReceiptsError` while another process writes to it: two that go on from the same round would both be it.
        """
        fd = _open_for_one(path)
        try:
            receipts = read(path)
            data = path.read_bytes()
            if not data.endswith(b"\n"):
                if receipts.notes:
                    os.ftruncate(fd, data.rindex(b"\n") + 1)
                else:  # torn between the line and its end: nothing is missing but that
                    os.write(fd, b"\n")
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd), receipts

    def begin(self, run: Run) -> None:
        """Write the head; it comes before any round."""
        self._append("run", run_to_json(run))

    def write(self, round_: Round) -> None:
        """Append one round; it is in the file when this returns."""
        self._append("round", round_to_json(round_))

    def close(self) -> None:
        """Close the file, and take it away when nothing came into it."""
        about = os.fstat(self._fd)
        if stat.S_ISREG(about.st_mode) and about.st_size == 0:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._fd)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, kind: str, value: dict[str, Any]) -> None:
        # Without NaN, which is not JSON: other languages would refuse the line.
        text = json.dumps({"schema": SCHEMA, "kind": kind, kind: value}, separators=(",", ":"), allow_nan=False)
        line = text.encode() + b"\n"
        try:
            while line:  # one write, unless the disk is full or a signal falls into it
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise NotWritten(f"{self.path}: {error.strerror} (make room, or write elsewhere with -o)") from error


def expect_new(path: Path) -> None:
    """Raise `UsageError` when a file is there that would be lost; what is no file (/dev/null, a pipe) loses nothing."""
    if path.is_file() or path.is_dir():
        raise UsageError(f"{path} is there already; name another file, or remove it")


def _open_for_one(path: Path, flags: int = 0) -> int:
    """Return an fd to append with, which holds the file while it is open; `ReceiptsError` when another does."""
    fd = os.open(path, flags | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):  # /dev/null is everybody's
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ReceiptsError(
            f"{path} is being written to by another process: wait until that ends, or name another file"
        ) from None
    except OSError:  # of a file system that has no locks: receipts can be kept there all the same
        pass
    return fd


def default_folder() -> Path:
    """Return where receipts go when nobody says otherwise: below the XDG state folder."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # XDG base directory specification: a path that is not absolute is to be ignored.
    if base.startswith("/"):
        return Path(base) / "lguest-launcher/receipts"
    try:
        return Path.home() / ".local/state/lguest-launcher/receipts"
    except RuntimeError:  # neither $HOME nor a line in /etc/passwd
        raise UsageError("there is no home folder to keep receipts in: name a file with -o, or set HOME") from None


def default_path(kind: str) -> Path:
    """Return a new name in the default folder: what, when, and who, so that two at once do not meet."""
    return default_folder() / f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl"


def read(path: Path) -> Receipts:
    """Read a file of receipts; raise `ReceiptsError` for one that is not, `OSError` for one that cannot be read."""
    if stat.S_ISCHR(path.stat().st_mode):  # a pipe has an end, /dev/zero has none
        raise ReceiptsError(f"{path} is a device and no file of receipts: name what a bench or a duel has written")
    # An editor may have put a mark before the first line, and an empty one behind the last.
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    tail = lines.pop()  # what follows the last end of line: nothing, or a line that was torn
    while len(lines) > 1 and not tail and not lines[-1].strip():
        lines.pop()
    if not lines and not tail:
        raise ReceiptsError(f"{path} is empty: the run that should have written it had not begun")
    notes = []
    if tail:
        try:
            json.loads(tail)
            lines.append(tail)
        except (ValueError, RecursionError):
            if not lines:
                raise ReceiptsError(
                    f"{path} is no file of receipts, or was cut off within its first line: nothing in it can be used"
                ) from None
            notes.append(f"{path}: line {len(lines) + 1} was cut off; the {len(lines) - 1} rounds before it are used")
    run: Run | None = None
    rounds: list[Round] = []
    line_of: dict[tuple[str, int, int], int] = {}
    for number, line in enumerate(lines, 1):
        at = f"{path}, line {number}"
        kind, value = _open_line(at, line, is_first=number == 1)
        if kind == "round":
            round_ = round_from_json(at, value)
            rounds.append(round_)
            first = line_of.setdefault((round_.arm, round_.block, round_.position), number)
            if first != number:  # would count twice, and make the evidence look twice as good
                raise ReceiptsError(f"{at} is the round of line {first} once more: remove one of the two")
        elif run is None:
            run = run_from_json(at, value)
        else:
            raise ReceiptsError(f"{at} begins a second run: keep each run in a file of its own")
    assert run is not None  # the first line is one
    return Receipts(path, run, rounds, notes)


def _open_line(at: str, line: bytes, *, is_first: bool) -> tuple[str, dict[str, Any]]:
    """Return a line's kind and what it holds, of a schema that we know."""
    try:
        value = json.loads(line.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\ud" in line.lower():  # half a character can be read, and then not be printed
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        value = None
    fields = value if isinstance(value, dict) else {}
    schema, kind = fields.get("schema"), str(fields.get("kind"))
    if type(schema) is int and schema > SCHEMA:
        raise ReceiptsError(f"{at} has schema {schema} and this launcher reads up to {SCHEMA}: use a newer launcher")
    held = fields.get(kind)
    if type(schema) is not int or schema != SCHEMA or kind not in ("run", "round") or not isinstance(held, dict):
        raise ReceiptsError(f"{at} is no receipt: not JSON with a schema, a kind (run or round) and that kind's fields")
    if is_first and kind != "run":
        raise ReceiptsError(f"{at} is a round and not the run that a file of receipts begins with: its head is missing")
    return kind, held


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        raise ValueError(f"{text} is beyond what can be computed with")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
