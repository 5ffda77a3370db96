"""A verdict for people: a row for each quantile, a row for each count that changed, and the sentence."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from launcher.bench.judging.judge import BROKEN, Verdict
from launcher.bench.judging.verdict import Outcome, QuantileVerdict, percent

_STYLES = {
    Outcome.REGRESSED: "bold red",
    BROKEN: "bold red",
    Outcome.CANNOT_TELL: "yellow",
    Outcome.IMPROVED: "bold green",
    Outcome.NOT_REGRESSED: "green",
}
_SHOWN_BROKEN = 10


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print them on standard output, all quantiles in one table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Rows must stay rows: a pipe has no width at all.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("base", "head", "quantile", "n", "change", "interval", "level", "control", "floor", "findable"):
        is_text = heading in ("base", "head", "quantile")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for verdict in verdicts:
        for found in verdict.quantiles:
            outcome = Text(found.outcome, _STYLES[found.outcome])
            table.add_row(*map(Text, (verdict.base, verdict.head, *_cells(found))), outcome)
    if table.row_count:
        console.print(table)
    for verdict in verdicts:
        for count in verdict.counts:
            if count.outcome in ("more", "fewer"):
                shown = f"{count.base:,.3g} → {count.head:,.3g} {count.unit}"
                console.print(f"{verdict.head}: {count.outcome} {count.name}: {shown}", markup=False)
        for sentence in verdict.broken[:_SHOWN_BROKEN]:
            console.print(f"broken: {sentence}", markup=False, soft_wrap=True, style=_STYLES[BROKEN])
        if len(verdict.broken) > _SHOWN_BROKEN:
            console.print(f"broken: and {len(verdict.broken) - _SHOWN_BROKEN} more", style=_STYLES[BROKEN])
        for note in verdict.notes:
            console.print(f"{verdict.head}: {note}", markup=False, soft_wrap=True)
        text = Text.assemble((str(verdict.outcome), _STYLES.get(verdict.outcome, "")), f": {verdict.sentence}")
        console.print(Text(f"{verdict.head} against {verdict.base}: ") + text, soft_wrap=True)


def asked(verdict: Verdict) -> str:
    """Return what the verdict was asked to keep, for the line below the table."""
    settings = verdict.settings
    return (
        f"alpha {100 * settings.alpha:.3g} % to see a difference where there is none, "
        f"beta {100 * settings.beta:g} % to miss one of delta = {100 * settings.delta:g} %; "
        f"findable: with a chance of {100 * settings.power:g} %"
    )


def _cells(found: QuantileVerdict) -> tuple[str, ...]:
    low, high = percent(found.interval.low), percent(found.interval.high)
    return (
        found.name,
        str(found.pairs),
        percent(found.estimate),
        f"{low} .. {high}" if math.isfinite(found.interval.low) else "too few",
        f"{100 * (1 - found.level):.4g} %",
        "-" if found.control is None else percent(found.control),
        percent(found.floor),
        percent(found.smallest),
    )
