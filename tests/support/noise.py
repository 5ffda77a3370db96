"""Rounds out of thin air, with the noise that machines really have: for tests of what judges rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.bench.store.receipts import Round, Usage

Floats = NDArray[np.float64]


def logs(rng: np.random.Generator, *, blocks: int, arms: int, kind: str = "heavy", spread: float = 0.04) -> Floats:
    """Return blocks x arms logs of a round's quantile, all arms alike. The order of the arms in a block is by lot."""
    shape = (blocks, arms)
    noise = rng.standard_t(3, shape) * spread * 0.8
    if kind == "bimodal":  # one process in eight lands on a far core
        noise = rng.normal(0, spread / 2, shape) + np.where(rng.random(shape) < 0.125, 0.4, 0.0)
    if kind == "skewed":  # a neighbour steals time from one round in ten
        noise = rng.normal(0, spread / 2, shape) + np.where(rng.random(shape) < 0.1, rng.exponential(0.5, shape), 0.0)
    if kind == "drifting":  # an autocorrelated walk through all rounds of all arms
        steps = rng.normal(0, spread, blocks * arms)
        walk = np.zeros(blocks * arms)
        for at in range(1, len(walk)):
            walk[at] = 0.95 * walk[at - 1] + steps[at]
        order = np.argsort(rng.random(shape), axis=1)
        drift = np.empty(shape)
        np.put_along_axis(drift, order, walk.reshape(shape), axis=1)
        noise = noise / 2 + drift
    return noise


def round_at(arm: str, block: int, log_p50: float = 0.0, *, position: int = 0, n: int = 400, **changes: Any) -> Round:
    """Return a round whose p50 is 10 us times e^`log_p50`, and whose tail is a line up to twice that."""
    median = 10_000 * math.exp(log_p50)
    latencies = np.concatenate([np.full(n // 2 + 1, median), np.linspace(median, 2 * median, n - n // 2 - 1)])
    values: dict[str, Any] = {
        "arm": arm,
        "case": "wake",
        "engine": "python",
        "waker": "process/select",
        "parameters": {},
        "seed": 1000 + block,
        "block": block,
        "position": position,
        "started": "2026-01-01T00:00:00Z",
        "duration_ns": 10**9,
        "latencies_ns": latencies.round().astype(np.int64),
        "counts": {"sent": n, "served": n, "lost": 0, "breaks": n, "spurious": 0},
        "usage": [Usage("launcher", 5_000 * n, 2 * n, 3, 20 << 20), Usage("stimulus", 9 * n, n, 0, 1 << 20)],
    }
    return Round(**(values | changes))


def duel(
    shifts: dict[str, float], *, seed: int = 1, blocks: int = 40, kind: str = "heavy", spread: float = 0.02
) -> Any:
    """Return rounds of these arms, each slower by its shift (0.05 is 5 %)."""
    rng = np.random.default_rng(seed)
    noise = logs(rng, blocks=blocks, arms=len(shifts), kind=kind, spread=spread)
    return [
        round_at(arm, block, noise[block, at] + math.log1p(shift), position=at)
        for block in range(blocks)
        for at, (arm, shift) in enumerate(shifts.items())
    ]
