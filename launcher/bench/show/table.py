"""The table of a bench, who is on the front, and what to try next: for people, on standard output."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from launcher.bench.measure.cases import DIRECT, Case
from launcher.bench.measure.rounds import STOP
from launcher.bench.show.summary import Summary, front
from launcher.bench.stats import quantiles
from launcher.words import shown

HARNESS_LIMIT = 1.3
"""What the harness alone may take, in what the same takes in plain C."""


class _Column(NamedTuple):
    heading: str
    cell: Callable[[Summary], str]
    is_text: bool = False


def print_table(case: Case, summaries: Sequence[Summary]) -> None:
    """Print a row for each arm, and below it where the time of a wake-up goes, if that was traced."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Rows must stay rows: a pipe has no width at all.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(box=None, pad_edge=False)
    columns = [column for column in _columns(case, summaries) if any(column.cell(s) != "-" for s in summaries)]
    for column in columns:
        table.add_column(column.heading, justify="left" if column.is_text else "right", no_wrap=True)
    best = next((summary.arm for summary in summaries if summary.is_waker), None)
    for summary in summaries:
        style = "bold red" if summary.lost else "bold" if summary.arm == best else "" if summary.is_waker else "dim"
        # Text: a stranger's receipts may hold what rich takes for markup.
        table.add_row(*(Text(shown(column.cell(summary))) for column in columns), style=style)
    console.print(table)
    for summary in summaries:
        if summary.ns_per_stamp is not None:
            text = f"{summary.arm}: medians of the hops in us; a stamp costs {summary.ns_per_stamp / 1e3:.2f}"
            console.print(f"\n{text}", markup=False)
            for hop, (ns, count) in summary.hops_ns.items():
                console.print(f"  {hop:20} {ns / 1e3:8.1f}  ({count})", markup=False)


def remarks(case: Case, summaries: Sequence[Summary]) -> list[str]:
    """Return what is to be said below the table, a sentence each."""
    said = []
    bases = sorted({summary.base for summary in summaries if summary.base and summary.is_waker})
    if bases:
        said.append(f"x C: p50 against plain C of the same place (select), or the nearest to it: {', '.join(bases)}")
    for summary in summaries:
        if summary.waker != DIRECT or not summary.ratio:
            continue
        said.append(f"the harness alone ({summary.arm}): {summary.ratio:.2f} x {summary.base}, the same in plain C")
        if summary.ratio > HARNESS_LIMIT:
            said.append(
                f"the harness takes more than {HARNESS_LIMIT} x what C does, and all times here contain it: measure "
                "once more when it is quiet, or with a Python that was built with optimisations (PGO)"
            )
        elif summary.ratio < 1 / HARNESS_LIMIT:
            said.append("C cannot take longer for the same: both were disturbed; measure once more when it is quiet")
    ended = [f"{summary.arm} {why}" for summary in summaries for why in dict.fromkeys(summary.ended)]
    said += [f"not well ended: {text}" for text in ended]
    best = front(summaries)
    if best and case.is_timed:
        names = ", ".join(summary.arm for summary in best)
        said.append(f"nobody beats these in latency, CPU time and isolation at once: {names}")
    return said


def lost_remarks(summaries: Sequence[Summary], run_seed: int) -> list[str]:
    """Return a sentence for each arm that lost a wake-up, with what it takes to replay it."""
    said = []
    for summary in summaries:
        if summary.lost:
            block, seed, number = summary.lost[0]
            more = f" and {len(summary.lost) - 1} more" if len(summary.lost) > 1 else ""
            said.append(
                f"LOST: {summary.arm}: ring {number}{more} woke nobody (block {block}, its gaps are of seed {seed}); "
                f"to replay the run, say --seed {run_seed}"
            )
    return said


def next_command(case: Case, summaries: Sequence[Summary]) -> str:
    """Return the command that says more than this one did."""
    wakers = [summary for summary in summaries if summary.is_waker]
    engine = f" --engine {wakers[0].engine}" if wakers else ""
    lost = next((summary for summary in wakers if summary.lost), None)
    if lost is not None:
        return shlex.join(["launcher", "check", "--waker", lost.waker, "--engine", lost.engine])
    best = next((summary for summary in wakers if summary.is_sound), None)
    if best is not None and case.is_timed and (duel := _duel(case, best, wakers)):
        return duel
    other = "wake-busy" if case.name == "wake" else "wake"
    return f"launcher bench --case {other}{engine}"


def _duel(case: Case, best: Summary, wakers: Sequence[Summary]) -> str | None:
    """Return the duel of the best with the next one under its conditions; else with itself under others."""
    others = [one for one in wakers if one.is_sound and one is not best]
    rival = next((one for one in others if one.is_comparable_with(best)), None)
    if rival is None:
        rival = next((one for one in others if one.waker == best.waker and one.engine == best.engine), None)
    if rival is None or rival.parameters.keys() != best.parameters.keys():
        return None
    defaults, ours, theirs = case.defaults(), best.parameters, rival.parameters
    differing = [name for name in ours if ours[name] != theirs[name]]
    sides = [
        "@".join(filter(None, [one.waker, ",".join(_setting(name, one.parameters[name]) for name in differing)]))
        for one in (best, rival)
    ]
    command = ["launcher", "duel", *sides, "--case", case.name, "--engine", best.engine]
    for name, value in ours.items():
        if name not in differing and value != defaults.get(name):
            command += ["--set", _setting(name, value)]
    return shlex.join(command)


def _setting(name: str, value: int | float | str) -> str:
    return f"{name}={value:.15g}" if isinstance(value, float) else f"{name}={value}"


def _columns(case: Case, summaries: Sequence[Summary]) -> list[_Column]:
    columns = [_Column("arm", lambda s: s.arm, is_text=True)]
    if len({summary.engine for summary in summaries if summary.is_waker}) > 1:
        columns.append(_Column("engine", lambda s: s.engine, is_text=True))
    columns.append(_Column("n", lambda s: str(s.n)))
    unit, scale = ("ms", 1e6) if case.name == "start" else ("us", 1e3)
    columns += [_quantile_column(quantiles.name(p), unit, scale) for p in quantiles.PRINTED]
    columns += [
        _Column(f"max {unit}", lambda s: "-" if s.max_ns is None else f"{s.max_ns / scale:.1f}"),
        _Column("x C", lambda s: "-" if s.ratio is None else f"{s.ratio:.2f}"),
    ]
    if case.name == "burst":
        columns.append(_Column("rings/wake", lambda s: _scaled(s.rings_per_wake, 1)))
    what = "rings" if case.is_open else "reads"
    columns.append(_Column(f"{what}/s", lambda s: "-" if s.rings_per_s is None else f"{s.rings_per_s:,.0f}"))
    if case.name == "start":
        columns.append(_Column("stop p50 ms", lambda s: _scaled(s.hops_ns.get(STOP, (None, 0))[0], 1e6)))
    per = "round" if not case.is_timed else "start" if case.name == "start" else "wake"
    columns += [
        _Column(f"CPU us/{per}", lambda s: _scaled(s.cpu_ns, 1e3)),
        _Column(f"switches/{per}", lambda s: _scaled(s.switches, 1)),
        _Column("PSS MiB", lambda s: _scaled(s.pss_bytes, 1 << 20)),
        _Column("late", lambda s: str(s.counts.get("late", 0))),
        _Column("lost", lambda s: str(len(s.lost))),
    ]
    return columns


def _quantile_column(name: str, unit: str, scale: float) -> _Column:
    return _Column(f"{name} {unit}", lambda s: _scaled(s.quantiles_ns.get(name), scale))


def _scaled(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:.1f}"
