"""An earlier revision of this very code, checked out beside it for as long as a duel takes.

`git worktree add --detach` into a temporary folder, taken away whatever happens: an entry that stays in .git/worktrees
would be in everybody's way. Git runs in a session of its own, so that ^C does not reach it half-way.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.bench.crew import ROOT
from shared.errors import LabError, UsageError

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
    with tempfile.TemporaryDirectory(prefix="launcher-duel-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        try:
            _git(root, "worktree", "add", "--detach", "--force", str(tree), commit)
            if not (tree / "launcher" / "machine.py").is_file():
                raise LabError(f"revision {commit[:12]} has no launcher/machine.py: there is nothing to measure in it")
            yield tree
        finally:
            with _undisturbed():
                subprocess.run(
                    ["git", "-C", str(root), "worktree", "remove", "--force", str(tree)],
                    capture_output=True,
                    check=False,
                    start_new_session=True,
                )
                subprocess.run(
                    ["git", "-C", str(root), "worktree", "prune"],
                    capture_output=True,
                    check=False,
                    start_new_session=True,
                )


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
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=False, start_new_session=True
        )
    except FileNotFoundError:
        raise UsageError("--against needs git, and there is none on the PATH") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise UsageError(f"git {args[0]} failed in {root}: {words[-1] if words else done.returncode}")
    return done.stdout
