"""The fence is one: what goes wrong between two processes without it does not go wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = 200_000
TRIES = 2_000_000
SECONDS = 15  # what a loaded machine may take for either run; fewer rounds are then judged


def litmus(kind: str, rounds: int, enough: int) -> tuple[int, int]:
    """Return how many rounds were run and how many of them were violated."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.litmus", kind, str(rounds), str(enough), str(SECONDS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    ran, violated = map(int, done.stdout.split())
    return ran, violated


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot overtake itself")
def test_the_fence_prevents_what_happens_without_it() -> None:
    ran, violated = litmus("bare", TRIES, 20)
    if not violated:
        pytest.skip(f"no load overtook a store in {ran} tries on this machine, so a fence proves nothing here")
    fenced = litmus("fence", ROUNDS, 1)
    assert fenced[0] > 0
    assert fenced[1] == 0, f"{fenced} with the fence, {ran, violated} without"
