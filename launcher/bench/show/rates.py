"""How often a verdict was said of arms that are known: a row for each pair of them, and whether it is often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.bench.judging.verdict import Outcome
from launcher.bench.stats.signed_rank import Interval
from launcher.tables import Column, console, print_columns

MET, NOT_MET = "met", "NOT MET"


@dataclass(frozen=True, slots=True)
class Target:
    """How often "regressed" is to be said."""

    relation: str
    """`at most` or `at least`."""
    share: float


@dataclass(frozen=True, slots=True)
class Row:
    """How often "regressed" was said of one arm against A."""

    head: str
    kind: str
    duels: int
    outcomes: Counter[str]
    bounds: Interval
    target: Target
    remark: str
    reserve: str = ""
    """Why the target would not be met by this, whatever the share: too few duels, or too long ones."""

    @property
    def state(self) -> str:
        """Whether the target is met: `MET`, `NOT_MET`, or why it cannot be said to be."""
        found, wanted = self.share(Outcome.REGRESSED), self.target.share
        is_met = found <= wanted if self.target.relation == "at most" else found >= wanted
        return (self.reserve or MET) if is_met else NOT_MET

    def share(self, *outcomes: Outcome) -> float:
        """Return how often one of these was said."""
        return sum(self.outcomes[outcome] for outcome in outcomes) / self.duels


def print_rates(rows: Sequence[Row]) -> None:
    """Print them on standard output."""
    cells = {
        "A against": [row.head for row in rows],
        "duels": [f"{row.duels} {row.kind}" for row in rows],
        "regressed": [_percent(row.share(Outcome.REGRESSED)) for row in rows],
        "95 % bounds": [f"{100 * row.bounds.low:.1f} .. {100 * row.bounds.high:.1f} %" for row in rows],
        "not regressed": [_percent(row.share(Outcome.NOT_REGRESSED, Outcome.IMPROVED)) for row in rows],
        "cannot tell": [_percent(row.share(Outcome.CANNOT_TELL)) for row in rows],
        "target": [f"{row.target.relation} {100 * row.target.share:g} %" for row in rows],
        "": [row.state for row in rows],
        "remark": [row.remark for row in rows],
    }
    columns = [Column(heading, texts, is_text=True) for heading, texts in cells.items()]
    print_columns(console(), columns, spare=("remark", "not regressed", "cannot tell"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
