"""What was measured, as text: quantiles per arm, ratios to C with their targets, the curve, the hops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from launcher.bench.show.summary import summarise
from launcher.bench.store.records import Round


class Arm(NamedTuple):
    """What is measured: `c:PROGRAM` or `ENGINE:GUEST:WAKER`, with so many idle files watched besides."""

    name: str
    idle_fds: int = 0

    @property
    def is_c(self) -> bool:
        """Whether it is one of the yardstick's programs."""
        return self.name.startswith("c:")


Done = dict[Arm, list[Round]]

BEST = "best of python:idle:*"
QUANTILES = ((0.5, 1), (0.9, 29), (0.99, 299))  # and the samples without which it says nothing


class Target(NamedTuple):
    """The p50 of `arm` may be at most `factor` times that of the yardstick `base`."""

    arm: str
    factor: float
    base: str


TARGETS = (
    Target("python:idle:thread/select", 1.6, "c:thread_select"),
    Target("python:idle:process/select", 1.5, "c:process_select"),
    Target("python:idle:process/epoll", 1.5, "c:process_select"),
    Target("python:idle:inline/uring", 0.8, "c:thread_select"),
    Target(BEST, 1.5, "c:direct"),
    Target("kvm:spin:process/epoll+signal", 1.6, "c:thread_select"),
    Target("kvm:spin:inline/uring", 1.1, "c:thread_select"),
)


def print_table(done: Done) -> None:
    """Print each arm's quantiles, what it lost, and what it cost."""
    print(f"\n{'arm':34} {'n':>6} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>8} {'lost':>4} {'CPU per':>8}")
    print(f"{'':34} {'':6} {'µs':>7} {'µs':>7} {'µs':>7} {'µs':>8} {'':4} {'wake, µs':>8}")
    for arm, rounds in done.items():
        latencies = pool(rounds)
        columns = [_shown(latencies, q, needed) for q, needed in QUANTILES]
        print(
            f"{arm.name:34} {len(latencies):6} {' '.join(f'{text:>7}' for text in columns)} "
            f"{latencies[-1] / 1e3 if latencies else math.nan:8.1f} "
            f"{sum(len(round_.lost_seqs) for round_ in rounds):4} {cpu_us(rounds):8.1f}"
        )


def print_targets(done: Done) -> None:
    """Print the ratio of each arm's p50 to that of C, and whether its target is met."""
    print(f"\n{'p50 against C':34} {'ratio':>6} {'middle half':>13}  {'at most':>7}")
    by_name = {arm.name: rounds for arm, rounds in done.items()}
    launchers = {name: rounds for name, rounds in by_name.items() if name.startswith("python:idle:")}
    if launchers:
        by_name[BEST] = min(launchers.values(), key=p50)
    targets = {target.arm: target for target in TARGETS}
    for name, rounds in by_name.items():
        if name.startswith("c:"):
            continue
        target = targets.get(name)
        base = target.base if target else _natural_base(name)
        if base not in by_name:
            continue
        ratio, spread = _ratio(rounds, by_name[base])
        verdict = f"{target.factor:7.1f}  {'met' if ratio <= target.factor else 'NOT met'}" if target else f"{'':7}"
        shown = f"{name} ({rounds[0].arm.rpartition(':')[2]})" if name == BEST else name
        print(f"{shown:34} {ratio:6.2f} {spread:>13}  {verdict}  of {base}")
        floor = _KVM_FLOORS.get(name.removeprefix("kvm:spin:").partition("/")[0])
        if floor in by_name:
            # What KVM takes to leave a Guest is no Waker's doing: C with a Guest that computes shows it.
            ratio, spread = _ratio(rounds, by_name[floor])
            print(f"{'':34} {ratio:6.2f} {spread:>13}  {'':7}  of {floor}")


_KVM_FLOORS = {"inline": "c:kvm_sigio", "thread": "c:kvm_thread_select", "process": "c:kvm_thread_select"}


def _ratio(rounds: Sequence[Round], base: Sequence[Round]) -> tuple[float, str]:
    """Return the ratio of the p50s, and where the middle half of the blocks' ratios lies."""
    of_blocks = sorted(p50([ours]) / p50([c]) for ours, c in zip(rounds, base, strict=False))
    return p50(rounds) / p50(base), f"{quantile(of_blocks, 0.25):.2f} to {quantile(of_blocks, 0.75):.2f}"


def _natural_base(name: str) -> str:
    is_process = name.startswith(("python:idle:process/", "python:idle:fork/"))
    return "c:process_select" if is_process else "c:thread_select"


def print_curve(done: dict[Arm, list[Round]], sizes: Sequence[int]) -> None:
    """Print the p50 against the number of watched files."""
    print(f"\np50 in µs by watched files, one active\n{'arm':34} {' '.join(f'{size:>8}' for size in sizes)}")
    for name in dict.fromkeys(arm.name for arm in done):
        row = [done.get(Arm(name, size - 1)) for size in sizes]
        cells = [f"{p50(rounds) / 1e3:8.1f}" if rounds else f"{'-':>8}" for rounds in row]
        print(f"{name:34} {' '.join(cells)}", end="")
        first, last = row[0], row[-1]
        if first and last:
            print(f"   {sizes[-1]} / {sizes[0]}: {p50(last) / p50(first):.2f}", end="")
        lost = sum(len(round_.lost_seqs) for rounds in row if rounds for round_ in rounds)
        print(f"   {lost} LOST" if lost else "")


def print_hops(done: Done) -> None:
    """Print the median of each hop."""
    for arm, rounds in done.items():
        (summary,) = summarise(rounds)
        cost = "" if summary.ns_per_stamp is None else f" ({summary.ns_per_stamp / 1e3:.2f} µs each)"
        print(f"\n{arm.name}: p50 {p50(rounds) / 1e3:.1f} µs, with stamps{cost}; medians of the hops:")
        for name, (ns, count) in summary.hops_ns.items():
            print(f"  {name:24} {ns / 1e3:7.1f} µs  ({count})")


def pool(rounds: Sequence[Round]) -> list[int]:
    """Return all latencies in order."""
    return sorted(int(latency) for round_ in rounds for latency in round_.latencies_ns)


def p50(rounds: Sequence[Round]) -> float:
    """Return the median latency of these rounds in ns."""
    return quantile(pool(rounds), 0.5)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest value that is not below a share `q` of all."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def _shown(ordered_ns: Sequence[int], q: float, needed: int) -> str:
    return f"{quantile(ordered_ns, q) / 1e3:.1f}" if len(ordered_ns) >= needed else "-"


def cpu_us(rounds: Sequence[Round]) -> float:
    """CPU time of Launcher and Waker processes for each ring; a Guest that computes is part of its Launcher."""
    return (summarise(rounds)[0].cpu_ns or math.nan) / 1e3
