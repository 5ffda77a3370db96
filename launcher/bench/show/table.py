"""The table of a bench, who is on the front, and what to try next: for people, on standard output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from launcher.bench.measure.cases import DIRECT, Case
from launcher.bench.measure.hops import DUE
from launcher.bench.measure.rounds import STOP
from launcher.bench.show.summary import Summary, front
from launcher.bench.stats import quantiles
from launcher.bench.store.records import WRONG
from launcher.tables import Column, console, print_columns

_SPARE = ("p99.9", "late", "max", "n", "PSS", "rings/s", "reads/s", "switches")
"""What a narrow terminal does without, the first first."""

HARNESS_LIMIT = 1.3
"""What the harness alone may take, in what the same takes in plain C."""
BEHIND_LIMIT = 0.25
"""How much of a median may be the stimulus' own before it is said."""


class _Measure(NamedTuple):
    heading: str
    cell: Callable[[Summary], str]
    is_text: bool = False


def print_table(case: Case, summaries: Sequence[Summary]) -> None:
    """Print a row for each arm, and below it where the time of a wake-up goes, if that was traced."""
    found = [
        Column(column.heading, list(map(column.cell, summaries)), column.is_text)
        for column in _columns(case, summaries)
    ]
    best = next((summary.arm for summary in summaries if summary.is_waker), None)
    styles = [
        "bold red" if summary.is_broken else "bold" if summary.arm == best else "" if summary.is_waker else "dim"
        for summary in summaries
    ]
    print_columns(console(), [column for column in found if set(column.cells) != {"-"}], styles, _SPARE)
    for summary in summaries:
        if summary.ns_per_stamp is not None:
            print(f"\n{summary.arm}: medians of the hops in us; a stamp costs {summary.ns_per_stamp / 1e3:.2f}")
            for hop, (ns, count) in summary.hops_ns.items():
                print(f"  {hop:20} {ns / 1e3:8.1f}  ({count})")


def remarks(case: Case, summaries: Sequence[Summary]) -> list[str]:
    """Return what is to be said below the table, a sentence each."""
    said = []
    bases = sorted({summary.base for summary in summaries if summary.base and summary.is_waker})
    if bases:
        said.append(f"x C: p50 against plain C of the same place (select), or the nearest to it: {', '.join(bases)}")
    harness = [(one.ratio, one) for one in summaries if one.waker == DIRECT and one.ratio]
    if harness:
        ratio, one = max(harness, key=lambda found: abs(math.log(found[0])))
        worst = f", the worst of {len(harness)}" if len(harness) > 1 else ""
        said.append(f"the harness alone ({one.arm}): {ratio:.2f} x {one.base}, the same in plain C{worst}")
        if ratio > HARNESS_LIMIT:
            said.append(
                f"the harness takes more than {HARNESS_LIMIT} x what C does, and all times here contain it: measure "
                "once more when it is quiet, or with a Python built with optimisations (PGO), as distributions do"
            )
        elif ratio < 1 / HARNESS_LIMIT:
            said.append("C cannot take longer for the same: both were disturbed; measure once more when it is quiet")
    behind = [(summary.hops_ns[DUE][0], summary) for summary in summaries if DUE in summary.hops_ns]
    slow = [(ns, one) for ns, one in behind if one.is_waker and ns > one.p50_ns * BEHIND_LIMIT]
    if slow:
        ns, summary = max(slow, key=lambda found: found[0])
        said.append(
            f"rings come faster than they can be sent: {ns / 1e3:.1f} us of the {summary.p50_ns / 1e3:.1f} of "
            f"{summary.arm} are the stimulus' own"
        )
    ended = [f"{summary.arm} {why}" for summary in summaries for why in dict.fromkeys(summary.ended)]
    said += [f"not well ended: {text}" for text in ended]
    best = front(summaries)
    if best and case.is_timed:
        names = ", ".join(summary.arm for summary in best)
        said.append(f"nobody beats these in latency, CPU time and isolation at once: {names}")
    return said


def lost_remarks(summaries: Sequence[Summary], run_seed: int | None) -> list[str]:
    """Return a sentence for each arm that is broken, with what it takes to replay what it lost where that is known."""
    said = []
    for summary in summaries:
        said += [f"{summary.arm} is {why}" for why in dict.fromkeys(summary.ended) if why.startswith(WRONG)]
        if summary.lost:
            block, seed, number = summary.lost[0]
            more = f" and {len(summary.lost) - 1} more" if len(summary.lost) > 1 else ""
            said.append(
                f"LOST: {summary.arm}: ring {number}{more} woke nobody (block {block}, its gaps are of seed {seed})"
                + (f"; to replay the run, say --seed {run_seed}" if run_seed is not None else "")
            )
    return said


def _columns(case: Case, summaries: Sequence[Summary]) -> list[_Measure]:
    columns = [_Measure("arm", lambda s: s.arm, is_text=True)]
    if len({summary.engine for summary in summaries if summary.is_waker}) > 1:
        columns.append(_Measure("engine", lambda s: s.engine, is_text=True))
    columns.append(_Measure("n", lambda s: str(s.n)))
    unit, scale = ("ms", 1e6) if case.name == "start" else ("us", 1e3)
    columns += [_quantile_column(quantiles.name(p), unit, scale) for p in quantiles.PRINTED]
    columns += [
        _Measure(f"max {unit}", lambda s: "-" if s.max_ns is None else f"{s.max_ns / scale:.1f}"),
        _Measure("x C", lambda s: "-" if s.ratio is None else f"{s.ratio:.2f}"),
    ]
    if case.name == "burst":
        columns.append(_Measure("rings/wake", lambda s: _scaled(s.rings_per_wake, 1)))
    what = "rings" if case.is_open else "reads"
    columns.append(_Measure(f"{what}/s", lambda s: "-" if s.rings_per_s is None else f"{s.rings_per_s:,.0f}"))
    if case.name == "start":
        columns.append(_Measure("stop p50 ms", lambda s: _scaled(s.hops_ns.get(STOP, (None, 0))[0], 1e6)))
    per = "round" if not case.is_timed else "start" if case.name == "start" else "wake"
    columns += [
        _Measure(f"CPU us/{per}", lambda s: _scaled(s.cpu_ns, 1e3)),
        _Measure(f"switches/{per}", lambda s: _scaled(s.switches, 1)),
        _Measure("PSS MiB", lambda s: _scaled(s.pss_bytes, 1 << 20)),
        _Measure("late", lambda s: str(s.counts.get("late", 0))),
        _Measure("lost", lambda s: str(len(s.lost))),
    ]
    return columns


def _quantile_column(name: str, unit: str, scale: float) -> _Measure:
    return _Measure(f"{name} {unit}", lambda s: _scaled(s.quantiles_ns.get(name), scale))


def _scaled(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:.1f}"
