"""A verdict for people: a row for each quantile, a row for each count that changed, and the sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launcher.bench.judging.judge import BROKEN, Verdict
from launcher.bench.judging.verdict import Outcome, QuantileVerdict, Settings, percent
from launcher.tables import Column, console, print_columns

_STYLES = {
    Outcome.REGRESSED: "bold red",
    BROKEN: "bold red",
    Outcome.CANNOT_TELL: "yellow",
    Outcome.IMPROVED: "bold green",
    Outcome.NOT_REGRESSED: "green",
}
_SHOWN_BROKEN = 10
_TINY = 0.00005
"""Of an interval's level, which is one less the confidence: the first look spends next to nothing."""
_HEADINGS = (
    "base", "head", "quantile", "n", "change", "interval", "confidence", "control", "floor", "findable", "verdict",
)  # fmt: skip
_TEXTS = ("base", "head", "quantile", "verdict")
_SPARE = ("confidence", "floor", "n", "control", "base", "findable")
"""What a narrow terminal does without, the first first; the sentence below says which base it was."""


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print them on standard output, all quantiles in one table."""
    from rich.text import Text

    out = console()
    rows = [
        (verdict.base, verdict.head, *_cells(found), Text(found.outcome, _STYLES[found.outcome]))
        for verdict in verdicts
        for found in verdict.quantiles
    ]
    if rows:
        columns = zip(_HEADINGS, zip(*rows, strict=True), strict=True)
        print_columns(out, [Column(name, cells, name in _TEXTS) for name, cells in columns], spare=_SPARE)
    for verdict in verdicts:
        for count in verdict.counts:
            if count.outcome in ("more", "fewer"):
                out.print(f"{verdict.head}: {count.outcome} {count.name}: {count.change}", markup=False)
        for sentence in verdict.broken[:_SHOWN_BROKEN]:
            out.print(f"broken: {sentence}", markup=False, style=_STYLES[BROKEN])
        if len(verdict.broken) > _SHOWN_BROKEN:
            out.print(f"broken: and {len(verdict.broken) - _SHOWN_BROKEN} more", style=_STYLES[BROKEN])
        for note in verdict.notes:
            out.print(f"{verdict.head}: {note}", markup=False)
        text = Text.assemble((str(verdict.outcome), _STYLES.get(verdict.outcome, "")), f": {verdict.sentence}")
        out.print(Text(f"{verdict.head} against {verdict.base}: ") + text)


def asked(settings: Settings) -> str:
    """Return what a verdict was asked to keep, for the line below the table."""
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
        "> 99.99 %" if found.level < _TINY else f"{100 * (1 - found.level):.4g} %",
        "-" if found.control is None else percent(found.control),
        percent(found.floor),
        percent(found.smallest),
    )
