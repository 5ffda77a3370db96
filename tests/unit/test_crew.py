"""How whoever measures deals with processes that hang, die, and say nothing: real ones, which a shell plays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.bench.measure import crew
from launcher.bench.measure.crew import Arm, ArmFailed, Stimulus
from launcher.bench.measure.files import enough_files
from launcher.bench.measure.ledger import PUBLISHED, SERVED, Ledger
from launcher.bench.store.records import HUNG, OK
from shared.errors import CannotRunError
from tests.support.until import until


@contextmanager
def an_arm(script: str, *args: str) -> Iterator[Arm]:
    with Arm(["sh", "-c", script, "sh", *args], []) as arm:
        yield arm


@pytest.fixture
def stimulus() -> Iterator[Stimulus]:
    """One that waits for its beginning, which does not come."""
    fd, (reader, writer) = Ledger.create(1), os.pipe()
    with Stimulus([str(fd), "0", "1", "pipes", str(writer)], [fd, writer]) as stimulus:
        stimulus.wait_until_ready()
        yield stimulus
    for each in (fd, reader, writer):
        os.close(each)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Looks:
    """A ledger as it is seen at one look after the other; after the last one the arm is told, by a file, to be done."""

    rings = 100

    def __init__(self, done: Path, *looks: tuple[int, int]) -> None:
        self._done, self._looks = done, list(looks)

    @property
    def words(self) -> dict[int, int]:
        served, published = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if len(self._looks) == 1:
            self._done.touch()
        return {SERVED: served, PUBLISHED: published}


WAITS = "until [ -e $1 ]; do :; done; printf d; cat"


def test_a_ring_that_happens_to_be_on_its_way_at_a_look_is_not_lost(tmp_path: Path, stimulus: Stimulus) -> None:
    done = tmp_path / "done"
    looks = Looks(done, (5, 5), (5, 6), (6, 6), (6, 7), (7, 7), (7, 7))
    with an_arm(WAITS, str(done)) as arm:
        assert arm.wait_until_done(stimulus, looks, 0.01) == OK  # type: ignore[arg-type]


def test_a_ring_that_is_outstanding_at_two_looks_while_none_was_served_is_lost(
    tmp_path: Path, stimulus: Stimulus
) -> None:
    never = tmp_path / "never"
    looks = Looks(tmp_path / "done", (5, 5), (5, 6), (5, 7), (5, 7))
    with an_arm(WAITS, str(never)) as arm:
        assert arm.wait_until_done(stimulus, looks, 0.01) == HUNG  # type: ignore[arg-type]


def test_one_that_goes_on_serving_is_believed_in_however_far_behind_it_is(tmp_path: Path, stimulus: Stimulus) -> None:
    done = tmp_path / "done"
    looks = Looks(done, *((number, 90) for number in range(20)), (20, 20))
    with an_arm(WAITS, str(done)) as arm:
        assert arm.wait_until_done(stimulus, looks, 0.001) == OK  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("kill -9 $$", "died: it was killed by SIGKILL"),
        ("echo something harmless >&2; kill -9 $$", "died: it was killed by SIGKILL"),
        ("echo some lines >&2; echo the reason >&2; exit 1", "died: the reason"),
        ("echo it was A and came back as B >&2; exit 4", "wrong: it was A and came back as B"),
        ("exit 9", "died: it left with 9"),
        ("exit 0", "died: it left without a word"),
    ],
)
def test_one_that_dies_says_how(script: str, how: str) -> None:
    fd = Ledger.create(1)
    with Ledger(fd) as ledger, an_arm(script) as arm:
        assert arm.wait_until_done(None, ledger, 20.0) == how
    os.close(fd)


@pytest.mark.parametrize(("code", "kind"), [(77, CannotRunError), (3, ArmFailed), (1, ArmFailed)])
def test_one_that_is_never_ready_says_why(code: int, kind: type[Exception]) -> None:
    with an_arm(f"echo it has its reasons >&2; exit {code}") as arm, pytest.raises(kind, match="it has its reasons"):
        arm.wait_until_ready()


def test_one_that_dies_before_it_may_begin_is_found_out_when_it_is_waited_for() -> None:
    fd = Ledger.create(1)
    with Ledger(fd) as ledger, an_arm("printf r; exec 1>&- 0>&-; exit 9") as arm:
        arm.wait_until_ready()
        until(lambda: psutil.Process(arm.pid).status() == psutil.STATUS_ZOMBIE, "it has not ended")
        arm.begin()
        assert arm.wait_until_done(None, ledger, 20.0) == "died: it left with 9"
    os.close(fd)


def test_a_report_is_whole_though_its_sender_does_not_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_END_S", 0.1)
    with an_arm("""printf d; cat; echo '{"counts": {"breaks": 3}}'; sleep 1000""") as arm:
        assert arm.report(gives_up=False) == {"counts": {"breaks": 3}}
        assert arm.leave() == "it did not come to its end within 0.1 s"


@pytest.mark.parametrize("script", ["cat; kill -9 $$", "cat; printf '{\"counts\": {'; kill -9 $$"])
def test_half_a_report_is_none_and_its_sender_did_not_end_well(script: str) -> None:
    with an_arm(script) as arm:
        assert arm.report(gives_up=False) == {}
        assert arm.leave() == "it was killed by SIGKILL"


def test_one_that_is_not_believed_in_any_more_is_told() -> None:
    with an_arm("""trap 'echo "{\\"counts\\": {}}"; exit 0' USR2; printf r; while :; do :; done""") as arm:
        arm.wait_until_ready()
        assert arm.report(gives_up=True) == {"counts": {}}
        assert arm.leave() == OK


def test_one_that_died_and_left_a_child_with_its_socket_has_died() -> None:
    fd = Ledger.create(1)
    with Ledger(fd) as ledger, an_arm("sleep 1000 & kill -9 $$") as arm:
        assert arm.wait_until_done(None, ledger, 20.0) == "died: it was killed by SIGKILL"
    os.close(fd)


def test_nobody_stays_that_one_has_started_which_died_before_it_was_given_up(tmp_path: Path) -> None:
    pid_of_child = tmp_path / "pid"
    with an_arm("sleep 1000 > /dev/null < /dev/null & echo $! > $1; exit 1", str(pid_of_child)) as arm:
        until(lambda: psutil.Process(arm.pid).status() == psutil.STATUS_ZOMBIE, "it has not ended")
        assert arm.report(gives_up=True) == {}
    child = int(pid_of_child.read_text())
    until(lambda: not is_running(child), "the child of an arm is there")


def test_what_was_started_is_gone_where_it_cannot_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(24, "Too many open files")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("os.pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        Arm(["sleep", "1000"], [])
    assert not is_running(started[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_nobody_stays_that_an_arm_has_started(tmp_path: Path) -> None:
    pid_of_child = tmp_path / "pid"
    with an_arm("sleep 1000 & echo $! > $1; printf r; wait", str(pid_of_child)) as arm:
        arm.wait_until_ready()
    child = int(pid_of_child.read_text())
    until(lambda: not is_running(child), "the child of an arm is there")


def test_one_that_has_much_to_say_is_not_held_up_by_it() -> None:
    with an_arm("yes 'a long line of complaint' | head -c 2000000 >&2; echo the last one >&2; printf r; exit 1") as arm:
        arm.wait_until_ready()
        assert arm.leave() == "the last one"


def test_a_stimulus_that_cannot_begin_says_so() -> None:
    fd = Ledger.create(1)
    with Stimulus([str(fd), "0", "1", "carrier pigeons"], [fd]) as stimulus, pytest.raises(ArmFailed, match="pigeons"):
        stimulus.wait_until_ready()
    os.close(fd)


def test_one_without_a_stimulus_has_its_own_turn_all_the_time(tmp_path: Path) -> None:
    with an_arm(WAITS, str(tmp_path / "never")) as arm:
        assert arm.wait_until_done(None, Looks(tmp_path / "done", (5, 5)), 0.01) == HUNG  # type: ignore[arg-type]


def test_a_stimulus_that_dies_ends_the_round_at_once(stimulus: Stimulus) -> None:
    fd = Ledger.create(1)
    with Ledger(fd) as ledger, an_arm("cat") as arm:
        os.kill(stimulus.pid, signal.SIGKILL)
        assert arm.wait_until_done(stimulus, ledger, 60.0) == "died: the stimulus: it was killed by SIGKILL"
    os.close(fd)


def test_a_stimulus_that_stands_still_is_not_waited_for_for_ever(tmp_path: Path, stimulus: Stimulus) -> None:
    looks = Looks(tmp_path / "done", (0, 0))
    with an_arm(WAITS, str(tmp_path / "never")) as arm:
        ended = arm.wait_until_done(stimulus, looks, 0.01, all_due_s=0.0)  # type: ignore[arg-type]
    assert ended == "died: the stimulus: it stands still"


def test_nobody_waits_for_ever_until_somebody_is_ready(monkeypatch: pytest.MonkeyPatch, stimulus: Stimulus) -> None:
    monkeypatch.setattr(crew, "_START_S", 0.01)
    with an_arm("cat") as arm, pytest.raises(ArmFailed, match=r"^it was not ready within 0 s"):
        arm.wait_until_ready()
    with pytest.raises(ArmFailed, match=r"^the stimulus was not ready within 0 s"):
        stimulus.wait_until_ready()  # which it has said once, and says no more


def test_files_that_are_too_few_are_a_sentence() -> None:
    with pytest.raises(
        CannotRunError, match=r"^9 sources: Too many open files \(here \d+, up to \d+ when asked for\); raise"
    ):
        with enough_files(300, "9 sources"):
            raise OSError(24, "Too many open files")
    with pytest.raises(PermissionError), enough_files(300, "9 sources"):
        raise PermissionError(13, "no")
