"""A pytest plugin: a fixture that runs a round of a case, and asserts counts. Times belong into a duel, not a test.

    def test_nothing_is_lost(waker_bench):
        bench = waker_bench("wake", waker="process/select", rings=200)
        bench.assert_nothing_lost()
        bench.assert_at_most("spurious", 0.1)

It comes with the package (entry point `pytest11`), or with `-p launcher.bench.pytest_plugin`. Whoever does not ask for
the fixture pays for this file and no other one: all else is imported when a round is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from launcher.bench.store.records import Round


class Bench:
    """A round that was run, and what may be said of its counts."""

    def __init__(self, round_: Round) -> None:
        self.round = round_

    def per_ring(self, count: str) -> float:
        """Return a count of the round for each ring that was served; `switches` are all of Launcher and Waker."""
        from launcher.bench.measure.usage import of_ours

        if count == "switches":
            total = of_ours(self.round.usage, "voluntary", "involuntary")
            if total is None:
                pytest.fail(f"the switches of {self.round.waker} are not known: Wakers came and went in this round")
        elif count in self.round.counts:
            total = self.round.counts[count]
        else:
            _fail(f"'{count}' was not counted; there are switches, {', '.join(sorted(self.round.counts))}")
        served = self.round.counts.get("served", 0)
        if not served:
            _fail(f"{self.round.waker}: no ring was served, and {count} per ring is nothing")
        return total / served

    def assert_nothing_lost(self) -> None:
        """Fail when a wake-up was lost, or the round did not come to its end, with what it takes to replay it."""
        from launcher.bench.judging.judge import what_is_broken

        if broken := what_is_broken([self.round]):
            _fail("; ".join(broken))

    def assert_at_most(self, count: str, per_ring: float) -> None:
        """Fail when there is more of it for each ring that was served."""
        found = self.per_ring(count)
        if found > per_ring:
            _fail(f"{self.round.waker}: {found:.3g} {count} per ring, more than {per_ring:g}")


@pytest.fixture
def waker_bench() -> Callable[..., Bench]:
    """Give what runs one round of a case: its name, then by keyword waker, engine, rings, seed and parameters.

    Without rings there are as many as a duel has in a round. The test is skipped, with the reason, where this Waker
    cannot run the case.
    """
    return _run


def _run(
    case: str = "wake",
    *,
    waker: str = "process/select",
    engine: str = "auto",
    rings: int | None = None,
    seed: int = 1,
    patience_s: float = 5.0,
    **parameters: object,
) -> Bench:
    from launcher.bench.duels.rota import Rota, choose_rings, expect_rings
    from launcher.bench.duels.sides import parse
    from launcher.bench.measure.cases import get
    from shared.errors import CannotRunError, LabError

    settings = [f"{name}={value}" for name, value in ({"pin": "free"} | parameters).items()]
    try:
        side = parse(get(case), waker, engine, settings)
        if rings is None:
            rings = choose_rings(get(case), [side])
        else:
            expect_rings(rings, get(case), [side])
        return Bench(Rota(get(case), [side], rings, seed, patience_s).round(side, seed))
    except CannotRunError as reason:
        pytest.skip(str(reason))
    except LabError as refusal:
        raise pytest.fail.Exception(str(refusal), pytrace=False) from None  # else pytest shows it twice


def _fail(why: str) -> NoReturn:
    """Fail with the sentence alone: what led to it in here is nothing to the test."""
    pytest.fail(why, pytrace=False)
