"""A revision checked out for a duel: what of the repository is touched meanwhile, and what is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.bench.duels import worktree
from launcher.bench.measure import provenance
from tests.support.sessions import environment

REAL_GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(REAL_GIT is None, reason="needs git")


def git(repository: Path, *args: str) -> str:
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(["git", "-C", str(repository), *who, *args], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository that looks like ours; temporary folders go below the test's own."""
    folder = tmp_path / "repository"
    (folder / "launcher").mkdir(parents=True)
    (folder / "launcher/machine.py").write_text("first = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return folder


def trees(repository: Path) -> list[str]:
    return [line for line in git(repository, "worktree", "list", "--porcelain").splitlines() if "worktree " in line]


def assert_nothing_is_left(repository: Path) -> None:
    assert len(trees(repository)) == 1
    assert not list((repository.parent / "temporary").iterdir())


def test_it_is_there_and_then_it_is_not(repository: Path) -> None:
    with worktree.checked_out(worktree.resolve("HEAD", repository), repository) as tree:
        assert (tree / "launcher/machine.py").read_text() == "first = 1\n"
        assert len(trees(repository)) == 2
    assert_nothing_is_left(repository)


def test_interrupted_while_git_is_at_it_nothing_is_left(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Git locks a worktree while it makes it: this one is as git leaves it when it is killed half-way.
    path = tmp_path / "bin"
    path.mkdir()
    (path / "git").write_text(
        f'#!/bin/sh\n{REAL_GIT} "$@"\ncode=$?\n'
        f'case "$*" in *"worktree add"*) cd {repository}; {REAL_GIT} worktree lock {tmp_path}/temporary/*/tree\n'
        "kill -INT $PPID;; esac\nexit $code\n"
    )
    (path / "git").chmod(0o755)
    commit = worktree.resolve("HEAD", repository)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(path), prepend=":")
        with pytest.raises(KeyboardInterrupt), worktree.checked_out(commit, repository):
            pass
    assert_nothing_is_left(repository)


def test_what_a_killed_duel_left_the_next_one_takes_away(repository: Path, tmp_path: Path) -> None:
    script = (
        "import sys, tempfile; from pathlib import Path; from launcher.bench.duels import worktree\n"
        "tempfile.tempdir = sys.argv[2]\n"
        "with worktree.checked_out('HEAD', Path(sys.argv[1])): print(flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", script, str(repository), str(tmp_path / "temporary")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with worktree.checked_out("HEAD", repository):
            assert len(trees(repository)) == 3  # one that goes on is left in peace
        assert len(trees(repository)) == 2
        os.kill(other.pid, signal.SIGKILL)
    assert len(trees(repository)) == 2
    with worktree.checked_out("HEAD", repository):
        assert len(trees(repository)) == 2
    assert_nothing_is_left(repository)


def test_an_empty_folder_of_a_duel_that_was_killed_before_git_knew_of_it_goes(repository: Path, tmp_path: Path) -> None:
    left, full, young, theirs = (
        tmp_path / "temporary" / name for name in ("launcher-duel-1", "launcher-duel-2", "launcher-duel-3", "theirs")
    )
    for folder in (left, full, young, theirs):
        folder.mkdir()
    (full / "file").write_text("")
    for folder in (left, full, theirs):
        os.utime(folder, (0, 0))
    with worktree.checked_out("HEAD", repository):
        pass
    assert sorted((tmp_path / "temporary").iterdir()) == sorted([full, young, theirs])


def test_worktrees_of_others_stay_also_when_their_disk_is_away(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "theirs"))
    (tmp_path / "theirs").rename(tmp_path / "unmounted")
    with worktree.checked_out("HEAD", repository):
        pass
    assert trees(repository)[1:] == [f"worktree {tmp_path / 'theirs'}"]


def test_no_hook_runs_and_in_a_hook_of_gits_it_works_all_the_same(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = repository / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    hook.chmod(0o755)
    first = git(repository, "rev-parse", "HEAD").strip()
    (repository / "launcher/machine.py").write_text("second = 2\n")
    (repository / "new.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "second")
    second = git(repository, "rev-parse", "--short=12", "HEAD").strip()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    with monkeypatch.context() as patched:
        patched.setenv("GIT_DIR", str(other / ".git"))
        patched.setenv("GIT_INDEX_FILE", str(repository / ".git/index"))
        with worktree.checked_out(worktree.resolve("HEAD~1", repository), repository) as tree:
            assert provenance.revision(tree) == first[:12]
        assert provenance.revision(repository) == second
    assert git(repository, "status", "--porcelain") == ""
    assert not (tmp_path / "ran").exists()
    assert_nothing_is_left(repository)
