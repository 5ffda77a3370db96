"""An earlier revision of this very code, checked out beside it for as long as a duel takes.

`git worktree add --detach` into a temporary folder, taken away whatever happens: an entry that stays in .git/worktrees
would be in everybody's way. Git runs in a session of its own and to its end: ^C must not leave half a checkout. Of a
duel that was killed outright the next one finds the folder, which nobody holds a lock on any more, and takes it away.

Nothing else of the repository is touched: no hook runs, other worktrees stay (also those whose disk is not there just
now, which `git worktree prune` would forget), and what git tells its own hooks about index and folder is not for us.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from types import FrameType

from launcher.bench.measure import provenance
from launcher.bench.measure.spec import ROOT
from shared.errors import LabError, UsageError

_PREFIX, _TREE = "launcher-duel-", "tree"
_MAKING_S = 60.0
"""A folder that is empty for longer was left: git fills it at once."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def resolve(revision: str, root: Path = ROOT) -> str:
    """Return the commit that a revision names; raise `UsageError` when there is none, or no repository."""
    if _git(root, "rev-parse", "--show-toplevel").strip() != str(root):
        raise UsageError(f"--against needs the launcher in a git repository of its own, and {root} is none")
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
    except UsageError:
        raise UsageError(f"revision '{revision}' does not exist in {root} (git fetch?)") from None


@contextmanager
def checked_out(commit: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield a folder with that commit's files; it is gone afterwards, and git knows nothing of it. Main thread only."""
    _sweep(root)
    folder, lock_fd = Path(tempfile.mkdtemp(prefix=_PREFIX)), -1
    tree = folder / _TREE
    try:
        lock_fd = _lock(folder)
        with _undisturbed():
            _git(root, "worktree", "add", "--detach", "--force", str(tree), commit)
        if not (tree / "launcher" / "machine.py").is_file():
            raise LabError(f"revision {commit[:12]} has no launcher/machine.py: there is nothing to measure in it")
        yield tree
    finally:
        with _undisturbed():
            _remove(root, tree)
            if lock_fd >= 0:
                os.close(lock_fd)


def _sweep(root: Path) -> None:
    """Take away what duels that were killed left behind."""
    for line in _git(root, "worktree", "list", "--porcelain").splitlines():
        tree = Path(line.removeprefix("worktree "))
        if tree.name != _TREE or not tree.parent.name.startswith(_PREFIX):
            continue
        try:
            lock_fd = _lock(tree.parent)
        except FileNotFoundError:
            _remove(root, tree)
        except OSError:  # a duel that goes on, or somebody else's
            continue
        else:
            _remove(root, tree)
            os.close(lock_fd)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):  # killed before git knew of it
        with suppress(OSError):
            if time() - folder.stat().st_mtime > _MAKING_S:
                folder.rmdir()  # which leaves what is not empty


def _lock(folder: Path) -> int:
    """Return an fd that holds the folder for as long as this process lives; `BlockingIOError` when another holds it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove(root: Path, tree: Path) -> None:
    # Forced twice: git locks a worktree while it makes it.
    with suppress(LabError):
        _git(root, "worktree", "remove", "--force", "--force", str(tree))
    shutil.rmtree(tree.parent, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait until what has begun is done."""
    waiting: list[int] = []

    def later(signo: int, _frame: FrameType | None) -> None:
        waiting.append(signo)

    before = {signo: signal.signal(signo, later) for signo in _SIGNALS}
    try:
        yield
    finally:
        for signo, handler in before.items():
            signal.signal(signo, handler)
        for late in waiting:
            signal.raise_signal(late)


def _git(root: Path, *args: str) -> str:
    """Return what git says; raise `UsageError` with its last words when it fails."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", "-C", str(root), *args],
            capture_output=True,
            text=True,
            check=False,
            env=provenance.git_environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise UsageError("--against needs git, and there is none on the PATH") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise UsageError(f"git {args[0]} failed in {root}: {words[-1] if words else done.returncode}")
    return done.stdout
