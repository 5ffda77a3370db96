"""How many threads the kernel knows of in this process."""

from __future__ import annotations

from pathlib import Path

from tests.support.until import until


def count_tasks() -> int:
    """Return how many threads there are, also those that Python does not know."""
    return len(list(Path("/proc/self/task").iterdir()))


def wait_for_tasks(most: int) -> None:
    """Return once there are no more than `most`: a thread that was joined stays in the kernel a little longer."""
    until(lambda: count_tasks() <= most, f"there are more than {most} threads")
