"""How often a verdict was said of arms that are known: a row for each pair of them, and whether it is often enough."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.bench.judging.verdict import Outcome
from launcher.bench.stats.signed_rank import Interval

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
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("A against", "duels", "regressed", "95 % bounds", "not regressed", "cannot tell", "target", ""):
        table.add_column(heading, no_wrap=True)
    table.add_column("remark")
    for row in rows:
        table.add_row(
            row.head,
            f"{row.duels} {row.kind}",
            f"{100 * row.share(Outcome.REGRESSED):.1f} %",
            f"{100 * row.bounds.low:.1f} .. {100 * row.bounds.high:.1f} %",
            f"{100 * row.share(Outcome.NOT_REGRESSED, Outcome.IMPROVED):.1f} %",
            f"{100 * row.share(Outcome.CANNOT_TELL):.1f} %",
            f"{row.target.relation} {100 * row.target.share:g} %",
            row.state,
            row.remark,
        )
    console.print(table)
