"""A verdict where GitHub Actions shows it: an annotation on the run, and a table in the step's summary.

The words are GitHub's workflow commands (`::error title=...::...`), read from either stream of a step; %, ends of line
and, in a title, colons and commas must be escaped. The table is Markdown, appended to $GITHUB_STEP_SUMMARY.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.bench.judging.judge import Verdict
from launcher.bench.judging.verdict import QuantileVerdict, percent
from launcher.bench.show.verdict_table import asked
from launcher.words import say, write_aside
from shared.errors import EXIT_FINE, EXIT_UNDECIDED, LabError, Unread


def is_wanted() -> bool:
    """Whether this runs in a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotate(verdict: Verdict, replay: str) -> None:
    """Print the annotation on standard error, and append the table where the step's summary is."""
    write_aside(command(verdict, replay) + "\n")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(markdown(verdict, replay))
        except OSError as error:  # the verdict, and its exit code, stand without it
            say(f"GITHUB_STEP_SUMMARY {summary}: {error.strerror}")


@contextmanager
def annotating_refusals(*, is_asked: bool) -> Iterator[None]:
    """Annotate what ends without a verdict as well: a step that fails says why where one looks first."""
    try:
        yield
    except (Unread, BrokenPipeError):
        raise  # there was a verdict
    except (LabError, OSError) as error:
        if is_asked or is_wanted():
            write_aside(f"::error title=launcher duel::{_escape(str(error))}\n")
        raise


def command(verdict: Verdict, replay: str) -> str:
    """Return the annotation: an error where the exit code says worse or broken, a warning where nothing is known."""
    kind = {EXIT_FINE: "notice", EXIT_UNDECIDED: "warning"}.get(verdict.exit_code, "error")
    title = f"launcher duel: {verdict.outcome}"
    text = f"{verdict.head} against {verdict.base}: {verdict.sentence}\n{replay}"
    return f"::{kind} title={_escape(title).replace(':', '%3A').replace(',', '%2C')}::{_escape(text)}"


def markdown(verdict: Verdict, replay: str) -> str:
    """Return the verdict as Markdown."""
    rows = [
        f"### {_cell(verdict.head)} against {_cell(verdict.base)}: {verdict.outcome}",
        "",
        _cell(verdict.sentence),
        "",
        "| quantile | verdict | pairs | change | interval | control | findable |",
        "|---|---|---:|---:|---|---:|---:|",
        *(_row(found) for found in verdict.quantiles),
        "",
        *(f"- broken: {_cell(sentence)}" for sentence in verdict.broken[:10]),
        *(f"- {_cell(note)}" for note in verdict.notes),
        f"- {asked(verdict.settings)}",
        f"- `{replay.replace('`', '')}`",
    ]
    return "\n".join(rows) + "\n\n"


def _row(found: QuantileVerdict) -> str:
    low, high = percent(found.interval.low), percent(found.interval.high)
    interval = f"{low} .. {high}" if math.isfinite(found.interval.low) else "too few pairs"
    control = "-" if found.control is None else percent(found.control)
    cells = (
        found.name,
        found.outcome,
        found.pairs,
        percent(found.estimate),
        interval,
        control,
        percent(found.smallest),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
