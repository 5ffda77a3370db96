"""A duel as a user has it: real processes, a revision of real code, what it refuses and what it leaves behind.

Nothing here depends on speed: whatever the times say, the counts and the exit codes are known.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest

from launcher.bench.store import receipts
from tests.support.sessions import LAUNCHER, PATIENCE_S, ROOT, environment, only_sentence, run_launcher

QUICK = ("--engine", "python", "--rings", "30", "--seconds", "1", "--pin", "free", "--json")
DECIDED = (0, 2, 3)
"""The exit codes of a duel in which nothing broke: which one is the machine's business."""


def git(repository: Path, *args: str) -> str:
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(["git", "-C", str(repository), *who, *args], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository of this code: HEAD~2 is as it is here, HEAD~1 does not start, HEAD as it is here."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("repository")
    for name in ("launcher", "waker", "shared"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    machine = folder / "launcher/machine.py"
    fine = machine.read_text()
    git(folder, "init", "--quiet")
    for message, text in (("fine", fine), ("broken", "raise RuntimeError('not today')\n"), ("mended", fine)):
        machine.write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
    return folder


def run_in(repository: Path, *args: str, tmp: Path) -> subprocess.CompletedProcess[bytes]:
    env = environment(PYTHONPATH=str(repository), TMPDIR=str(tmp), XDG_STATE_HOME=str(tmp / "state"))
    return run_launcher("duel", *args, env=env, cwd=tmp)


def assert_nothing_is_left(repository: Path, tmp: Path) -> None:
    assert git(repository, "worktree", "list").count("\n") == 1
    assert not (repository / ".git/worktrees").is_dir() or not list((repository / ".git/worktrees").iterdir())
    assert not list(tmp.glob("launcher-duel-*"))


def rounds_in(path: Path) -> int:
    return len(receipts.read(path).rounds) if path.exists() and path.read_bytes().count(b"\n") else 0


def test_a_duel_of_two_wakers(tmp_path: Path) -> None:
    path = tmp_path / "duel.jsonl"
    done = run_launcher("duel", "process/select", "thread/select", *QUICK, "-o", str(path))
    assert done.returncode in DECIDED, done.stderr
    line = json.loads(done.stdout)
    assert line["exit_code"] == done.returncode
    assert "trying out and one block take about 2 s, more than the 1 s there are" in done.stderr.decode()
    assert (line["base"], line["head"], line["control"]) == ("process/select", "thread/select", "process/select'")
    assert line["quantiles"][0]["pairs"] == 2 * line["plan"]["blocks"]
    stored = receipts.read(path)
    assert stored.run.kind == "duel"
    assert {round_.counts["lost"] for round_ in stored.rounds} == {0}
    for block in {round_.block for round_ in stored.rounds}:
        order = [round_.arm for round_ in stored.rounds if round_.block == block]
        assert order == order[::-1]  # mirrored
        assert len(set(order)) == 3
        seeds = [round_.seed for round_ in stored.rounds if round_.block == block]
        assert (len(set(seeds[:3])), len(set(seeds[3:]))) == (1, 1)  # rung alike
    again = run_launcher("duel", "--show", str(path), "--json")
    assert again.returncode == done.returncode
    assert json.loads(again.stdout)["quantiles"] == line["quantiles"]
    taken = run_launcher("duel", "process/select", "thread/select", *QUICK, "-o", str(path))
    assert taken.returncode == 1
    assert "is there already" in taken.stderr.decode()


def test_a_dropped_break_ends_it_with_4_and_is_found_again_by_its_seed(tmp_path: Path) -> None:
    args = ("duel", "process/select", "process/select+drop=5", *QUICK, "--set", "idle_us=1000", "--patience", "1")
    path = tmp_path / "one.jsonl"
    done = run_launcher(*args, "-o", str(path))
    assert done.returncode == 4, done.stderr
    line = json.loads(done.stdout)
    assert line["outcome"] == "broken"
    assert "process/select+drop=5" in line["sentence"]
    assert "sequence number" in line["sentence"]
    assert receipts.read(path).rounds[-1].lost_seqs
    seed = str(line["plan"]["seed"])
    assert line["next"].endswith(f"--seed {seed}")
    program, *words = shlex.split(line["next"])  # as it is printed
    assert program == "launcher"
    again = run_launcher(*words, env=environment(XDG_STATE_HOME=str(tmp_path)))
    assert again.returncode == 4, again.stderr
    assert json.loads(again.stdout)["plan"]["seed"] == line["plan"]["seed"]


def test_a_loss_is_4_also_where_nothing_can_be_written() -> None:
    args = ("duel", "process/select+drop=1", "process/select", *QUICK, "--patience", "0.2")
    done = run_launcher(*args, "-o", "/dev/full")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["outcome"] == "broken"
    assert b"/dev/full: No space left on device" in done.stderr


def test_of_arms_that_cannot_be_tried_out_no_receipts_are_left(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "duel.jsonl"
    for _ in range(2):  # the same file can be named once more
        done = run_in(repository, "--against", "HEAD~1", *QUICK, "-o", str(path), tmp=tmp_path)
        assert done.returncode == 1
        assert "does not start" in done.stderr.decode()
        assert not path.exists()


def test_a_duel_without_times_has_a_control_too_and_says_nothing_of_quantiles(tmp_path: Path) -> None:
    args = (
        "--engine",
        "python",
        "--case",
        "idle",
        "--set",
        "seconds=0.02",
        "--seconds",
        "3",
        "--pin",
        "free",
        "--json",
    )
    done = run_launcher("duel", "process/select", "process/poll", *args, env=environment(XDG_STATE_HOME=str(tmp_path)))
    assert done.returncode in DECIDED, done.stderr
    line = json.loads(done.stdout)
    assert line["sentence"].startswith("no times to speak of; ")
    assert line["counts"]
    assert None not in [count["control"] for count in line["counts"]]
    assert not any("control" in note or "too short" in note for note in line["notes"])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["process/select", "process/epoll", "--case", "nix"], 1, "case 'nix' is not known"),
        (["process/select", "process/select"], 1, "are the same thing"),
        (["process/select", "process/select@idle_us=200"], 1, "are the same thing"),
        (["process/select", "process/select@engine=nix"], 1, "engine 'nix' is not known"),
        (["process/select"], 1, "two Wakers"),
        ([], 1, "two Wakers"),
        (["process/select", "process/epoll", "process/poll"], 1, "two Wakers"),
        (["process/nix", "process/epoll"], 1, "waker 'process/nix' is not known"),
        (["process/select", "process/epoll", "--set", "nix=1"], 1, "no parameter 'nix'"),
        (["process/select", "process/epoll", "--against", "HEAD"], 1, "one Waker"),
        (["process/select", "process/epoll", "--rings", "4"], 1, "4 rings a round are too few to speak of a p50"),
        (
            ["process/select", "process/epoll", "--rings", "30000", "--seconds", "1"],
            1,
            "take 56 s with 30000 rings each",
        ),
        (["process/select", "process/epoll", "--case", "burst", "--rings", "100"], 1, "no whole bursts of 64"),
        (["process/select", "process/epoll", "--delta", "0"], 1, "'0' is not above 0"),
        (["process/select", "fork/select", "--case", "vring"], 77, "fork/select cannot run case vring"),
        (["process/select", "process/epoll", "-o", "/proc/none/x.jsonl"], 1, "/proc/none/x.jsonl cannot be made: "),
        (["process/select", "process/epoll", "-o", ""], 1, "argument -o/--output: '' is no file's name"),
        (["--show", ""], 1, "argument --show: '' is no file's name"),
        (["c:process_select", "--against", "HEAD"], 1, "compiled out of the code here, whatever the revision"),
        (["--show", "/nonexistent"], 1, "it has no use for engine;"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(args: Sequence[str], code: int, words: str) -> None:
    done = run_launcher("duel", "--engine", "python", *args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in only_sentence(done.stderr)


def test_doctor_aa_that_was_too_short_says_so(tmp_path: Path) -> None:
    done = run_launcher("doctor", "--aa", "--seconds", "0.1", env=environment(XDG_STATE_HOME=str(tmp_path)))
    assert done.returncode == 5, done.stderr
    assert b"give it more --seconds" in done.stderr.splitlines()[-1]
    (path,) = tmp_path.rglob("doctor-*.jsonl")
    assert rounds_in(path) in (0, 6)  # a machine may stand still for so long


# ---- Against an earlier revision ----


def test_against_a_revision_and_nothing_is_left(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "duel.jsonl"
    done = run_in(repository, "--against", "HEAD~2", *QUICK, "-o", str(path), tmp=tmp_path)
    assert done.returncode in DECIDED, done.stderr
    commit = git(repository, "rev-parse", "HEAD~2").strip()
    assert json.loads(done.stdout)["base"] == f"HEAD~2 ({commit[:12]})"
    host = receipts.read(path).run.host
    assert host["base_git"] == commit[:12]
    assert host["head_git"] == git(repository, "rev-parse", "HEAD").strip()[:12]
    assert_nothing_is_left(repository, tmp_path)


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("HEAD~1", "does not start with the harness of today"),
        ("nix", "revision 'nix' does not exist"),
        ("--help", "revision '--help' does not exist"),
        ("HEAD^{tree}", "does not exist"),
    ],
)
def test_a_revision_that_is_none_or_does_not_start_is_no_regression(
    revision: str, words: str, repository: Path, tmp_path: Path
) -> None:
    done = run_in(repository, f"--against={revision}", *QUICK, tmp=tmp_path)
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    assert words in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr
    assert_nothing_is_left(repository, tmp_path)


def test_without_a_repository_it_says_so(repository: Path, tmp_path: Path) -> None:
    bare = tmp_path / "code"
    shutil.copytree(repository, bare, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    done = run_in(bare, "--against", "HEAD", *QUICK, tmp=tmp_path)
    assert done.returncode == 1
    assert "git" in only_sentence(done.stderr)


def test_changes_that_are_not_committed_are_measured_and_said_to_be(repository: Path, tmp_path: Path) -> None:
    path, machine = tmp_path / "duel.jsonl", repository / "launcher/machine.py"
    before = machine.read_text()
    machine.write_text(before + "# changed\n")
    try:
        done = run_in(repository, "--against", "HEAD", *QUICK, "-o", str(path), tmp=tmp_path)
    finally:
        machine.write_text(before)
    assert done.returncode in DECIDED, done.stderr
    head = git(repository, "rev-parse", "HEAD").strip()[:12]
    assert f"head is {head}+changes: what is not committed is measured, too" in done.stderr.decode()
    host = receipts.read(path).run.host
    assert (host["base_git"], host["head_git"]) == (head, f"{head}+changes")


def test_without_git_it_says_so(repository: Path, tmp_path: Path) -> None:
    env = environment(PYTHONPATH=str(repository), PATH=str(tmp_path))
    done = run_launcher("duel", "--against", "HEAD", *QUICK, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert "--against needs git, and there is none on the PATH" in only_sentence(done.stderr)


def test_in_a_folder_of_a_larger_repository_it_says_so(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "larger/launcher"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    git(folder.parent, "init", "--quiet")
    done = run_in(folder, "--against", "HEAD", *QUICK, tmp=tmp_path)
    assert done.returncode == 1
    assert "in a git repository of its own" in only_sentence(done.stderr)


def of_folder(folder: Path) -> list[str]:
    """Return the command lines of the processes that have something to do with a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in words + (process / "environ").read_text(errors="replace"):
                found.append(words)
    return found


def test_of_a_duel_that_is_killed_outright_nothing_is_left_but_what_the_next_one_takes_away(
    repository: Path, tmp_path: Path
) -> None:
    with begun(repository, tmp_path) as process:
        process.kill()
        process.wait()
    end = monotonic() + PATIENCE_S
    while of_folder(tmp_path):  # its arms and their Wakers end by themselves
        assert monotonic() < end, of_folder(tmp_path)
        select.select([], [], [], 0.02)
    assert rounds_in(tmp_path / "duel.jsonl") >= 2
    assert list(tmp_path.glob("launcher-duel-*"))
    done = run_in(repository, "--against", "HEAD~2", *QUICK, tmp=tmp_path)
    assert done.returncode in DECIDED, done.stderr
    assert_nothing_is_left(repository, tmp_path)


@contextmanager
def begun(repository: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Begin a long duel, whose receipts are `duel.jsonl`, and yield it when it has measured."""
    env = environment(PYTHONPATH=str(repository), TMPDIR=str(tmp_path))
    with subprocess.Popen(
        [*LAUNCHER, "duel", "--against", "HEAD~2", *QUICK[:-3], "--seconds", "3000", "-o", "duel.jsonl"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            end = monotonic() + PATIENCE_S
            while rounds_in(tmp_path / "duel.jsonl") < 2:
                assert process.poll() is None
                assert monotonic() < end
                select.select([], [], [], 0.02)
            yield process
        finally:
            process.kill()  # a test that fails does not wait for its end


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_duel_keeps_what_it_has_and_leaves_nothing(
    signo: signal.Signals, repository: Path, tmp_path: Path
) -> None:
    with begun(repository, tmp_path) as process:
        end = monotonic() + PATIENCE_S
        while process.poll() is None:  # and once is enough
            assert monotonic() < end
            os.kill(process.pid, signo)
            select.select([], [], [], 0.02)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b"interrupted" in err.splitlines()[-1]
    assert b"head against HEAD~2" in out  # what can be said
    assert rounds_in(tmp_path / "duel.jsonl") >= 2
    assert_nothing_is_left(repository, tmp_path)
