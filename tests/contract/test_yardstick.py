"""The programs in C, started by hand: what no ordinary round brings them, and how they say that they failed."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.bench.arms import choose_arms
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import get
from launcher.bench.measure.crew import Arm
from launcher.bench.measure.files import enough_files, open_pipes
from launcher.bench.measure.ledger import PUBLISHED, SERVED, SERVED_AT, WAKE, Ledger
from shared.errors import CannotRunError
from tests.support.sessions import skip_unless_it_runs
from tests.support.until import until

PATIENCE_S = 10.0
SLEEPERS = [name for name in yardstick.PROGRAMS if name.endswith(("direct", "thread_select"))]
"""Those that give the fd itself to select()."""


@contextmanager
def started(
    program: str, plan: Sequence[int] = (0,), idle: int = 0, reader_from: int = 0, prefix: Sequence[str] = ()
) -> Iterator[tuple[Arm, Ledger, list[int]]]:
    """Start a program that is to serve these sources in turn; yield the writing ends of their pipes, too.

    The reading ends are copies, numbered `reader_from` or higher.
    """
    if program.startswith("kvm_"):
        skip_unless_it_runs("thread/select", "kvm")
    if reason := yardstick.why_not(program):
        pytest.skip(reason)
    with ExitStack() as closing:
        pipes = closing.enter_context(open_pipes(max(plan) + 1))
        readers = [fcntl.fcntl(pipe.reader, fcntl.F_DUPFD_CLOEXEC, reader_from) for pipe in pipes]
        for fd in [*readers, ledger_fd := Ledger.create(len(plan))]:
            closing.callback(os.close, fd)
        ledger = closing.enter_context(Ledger(ledger_fd))
        ledger.plan([0] * len(plan), plan)
        ledger.words[PUBLISHED] = len(plan)
        numbers = (",".join(map(str, readers)), ledger_fd, len(plan), idle)
        argv = [*prefix, str(yardstick.build(program)), *map(str, numbers)]
        arm = closing.enter_context(Arm(argv, [*readers, ledger_fd]))
        yield arm, ledger, [pipe.writer for pipe in pipes]


@pytest.mark.parametrize("program", yardstick.PROGRAMS)
def test_a_ring_is_the_next_row_of_the_source_that_was_rung(program: str) -> None:
    with started(program, [1, 0, 1, 1, 0]) as (arm, ledger, pipes):
        arm.wait_until_ready()
        for fd, count, rows in ((pipes[1], 2, {0, 2}), (pipes[0], 2, {0, 1, 2, 4}), (pipes[1], 1, {0, 1, 2, 3, 4})):
            os.write(fd, b"!" * count)
            until(lambda rows=rows: ledger.words[SERVED] == len(rows), "not all are served")
            assert {number for number, at_ns in enumerate(ledger.column(SERVED_AT)) if at_ns} == rows
        assert ledger.column(WAKE) == [1, 2, 1, 3, 2]
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"


@pytest.mark.parametrize("program", yardstick.PROGRAMS)
def test_more_rings_than_are_read_at_once_are_served(program: str) -> None:
    with started(program, [0] * 5000) as (arm, ledger, pipes):
        arm.wait_until_ready()
        os.write(pipes[0], b"!" * 5000)  # and nothing comes after it
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"
        assert ledger.words[SERVED] == 5000


@pytest.mark.parametrize("program", ["direct", "direct_spin", "thread_select", "process_select"])
def test_no_page_of_the_ledger_is_touched_for_the_first_time_when_a_ring_is_served(program: str) -> None:
    with started(program, [0] * 5000) as (arm, ledger, pipes):
        arm.wait_until_ready()
        before = page_faults(arm.pid)
        os.write(pipes[0], b"!" * 5000)
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"
        assert page_faults(arm.pid) - before < len(ledger.words) * 8 // mmap.PAGESIZE // 2


def page_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.parametrize("program", SLEEPERS)
def test_an_fd_that_select_has_no_room_for_is_refused(program: str) -> None:
    with (
        enough_files(1200, "fd 1100"),
        started(program, reader_from=1100) as (arm, _, _),
        pytest.raises(CannotRunError, match="cannot watch fd 11"),
    ):
        arm.wait_until_ready()


@pytest.mark.parametrize(
    ("idle", "files", "sources", "what"), [(100, 40, 1, "eventfd"), (0, 20, 60, "fds were cut off")]
)
def test_a_waker_in_c_that_may_open_too_few_files_cannot_run_here(
    idle: int, files: int, sources: int, what: str
) -> None:
    few_files = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    with started("process_select", [*range(sources)], idle=idle, prefix=few_files) as (arm, _, _):
        with pytest.raises(CannotRunError, match=f"{what}: Too many open files"):
            arm.wait_until_ready()


def test_a_waker_in_c_that_is_refused_what_it_needs_cannot_run_here() -> None:
    with enough_files(1300, "1,100 files"), started("process_select", idle=1100) as (arm, _, _):
        with pytest.raises(CannotRunError, match="cannot watch fd 1024"):
            arm.wait_until_ready()


def test_a_waker_in_c_that_is_killed_is_a_round_that_died() -> None:
    with started("process_select") as (arm, ledger, _):
        arm.wait_until_ready()
        (child,) = psutil.Process(arm.pid).children()
        child.send_signal(signal.SIGKILL)
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "died: process_select: its Waker was killed"


def test_a_waker_in_c_that_is_only_stopped_goes_on() -> None:
    with started("process_select") as (arm, ledger, pipes):
        arm.wait_until_ready()
        (child,) = psutil.Process(arm.pid).children()
        child.suspend()
        until(lambda: child.status() == psutil.STATUS_STOPPED, "its Waker is not stopped")
        child.resume()
        os.write(pipes[0], b"!")
        assert arm.wait_until_done(None, ledger, PATIENCE_S) == "ok"


# ---- Where it cannot be compiled, or kept ----


Compiler = Callable[..., Path]


@pytest.fixture
def cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Give a function that makes a shell script the compiler, which may hand over to "$real"; the cache is empty."""
    real = shutil.which("cc")
    if real is None:
        pytest.skip("there is no C compiler")
    script = tmp_path / "own-cc"

    def become(text: str = 'exec "$real" "$@"') -> Path:
        script.write_text(f"#!/bin/sh\nreal={real}\n{text}\n")
        script.chmod(0o755)
        return script

    become()
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return become


def test_a_program_that_does_not_compile_takes_no_other_one_with_it(cc: Compiler) -> None:
    cc('case "$*" in *direct.c) echo "direct.c:1: fatal error: no such header"; echo stopped.; exit 1; esac >&2')
    with pytest.raises(CannotRunError, match=r"own-cc cannot compile the yardstick \(direct.c:1: fatal error"):
        yardstick.build("direct")
    cc('case "$*" in *direct.c) exit 1; esac; exec "$real" "$@"')
    chosen = choose_arms(get("wake"), ["thread/poll"], ["python"], {})
    assert (
        "own-cc cannot compile the yardstick (it left with 1); install what it misses, or "
        in chosen.skipped["c:direct"]
    )
    assert {"c:thread_select", "c:process_select", "c:direct_spin"} <= {arm.name for arm in chosen.arms}
    assert list(chosen.skipped) == ["c:direct"]


def test_another_version_of_the_compiler_compiles_anew(cc: Compiler) -> None:
    before = yardstick.build("direct")
    assert yardstick.build("direct") == before
    cc('[ "$1" = --version ] && echo 99.0 && exit; exec "$real" "$@"')
    assert yardstick.compiler_version() == "99.0"
    assert yardstick.build("direct") != before


def test_a_compiler_may_have_arguments(cc: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"env '{cc()}'")
    assert os.access(yardstick.build("direct"), os.X_OK)
    assert yardstick.compiler_version() != "unknown"


@pytest.mark.parametrize("name", ["'", "/no/such/cc", " "])
def test_what_is_no_compiler_is_said_to_be_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", name)
    assert yardstick.compiler_version() == "none"
    with pytest.raises(CannotRunError, match=r"there is no C compiler .*; install one, or name it in CC"):
        yardstick.build("direct")


def test_a_compiler_that_cannot_be_started_is_a_sentence(cc: Compiler) -> None:
    cc("").write_text("#!/no/such/shell\n")
    with pytest.raises(CannotRunError, match=r"own-cc cannot be started \(No such file or directory\); name a "):
        yardstick.build("direct")
    assert yardstick.compiler_version() == "none"


def test_a_cache_that_cannot_be_written_is_refused_with_its_remedy(
    cc: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cc()))  # a file
    with pytest.raises(CannotRunError, match=r"cannot hold what is compiled \(Not a directory\); set XDG_CACHE_HOME"):
        yardstick.build("direct")


def test_a_program_that_may_not_be_run_is_refused_with_its_remedy(cc: Compiler) -> None:
    cc('"$real" "$@"; while [ "$1" != -o ]; do shift; done; chmod a-x "$2"')  # as it is on a file system without exec
    with pytest.raises(CannotRunError, match=r"not run them \(is it noexec\?\); set XDG_CACHE_HOME"):
        yardstick.build("direct")


def test_without_a_home_there_is_a_remedy(cc: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")  # of a user without an entry

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(CannotRunError, match="no home folder to keep what is compiled; set XDG_CACHE_HOME"):
        yardstick.build("direct")
