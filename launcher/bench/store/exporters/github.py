"""JSON for github-action-benchmark, tool `customSmallerIsBetter`: one number for each arm and quantile.

The value is the median of the rounds, the range half the distance between their quartiles. That action compares
absolute numbers of one run with those of the last; on shared runners use `launcher duel --against` for a gate, and
this for a chart.
"""

from __future__ import annotations

import json

import numpy as np

from launcher.bench.stats import quantiles
from launcher.bench.store import exporters
from launcher.bench.store.receipts import Receipts


def export(receipts: Receipts) -> str:
    """Return a JSON array of results."""
    results = []
    for arm, rounds in exporters.of_each_arm(receipts):
        first = rounds[0][0]
        for p in exporters.common_quantiles(rounds):
            low, middle, high = np.quantile([found[p] for _, found in rounds], [0.25, 0.5, 0.75])
            results.append(
                {
                    "name": f"{first.case}: {arm} {quantiles.name(p)}",
                    "unit": "ns",
                    "value": round(float(middle), 1),
                    "range": f"± {(high - low) / 2:.0f}",
                    "extra": f"engine {first.engine}, waker {first.waker}, {len(rounds)} rounds",
                }
            )
    return json.dumps(results, indent=1) + "\n"
