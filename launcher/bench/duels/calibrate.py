"""scripts/calibrate: how often a duel is wrong on this machine, and how often it finds what is there.

Three steps, each of which can be stopped and gone on with: a long recording (recording.py), a thousand virtual duels
for each pair of arms out of it (calibration.py), and some real duels of the same arms. Then a table against the
targets.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from launcher.bench.duels import duel, recording
from launcher.bench.duels.recording import AGAIN, BASE, Arms
from launcher.bench.duels.rota import Rota
from launcher.bench.duels.sides import parse
from launcher.bench.judging import calibration
from launcher.bench.judging.judge import what_is_broken
from launcher.bench.judging.verdict import Outcome, Settings, percent
from launcher.bench.measure import provenance
from launcher.bench.measure.cases import Case, get
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.stats import statistics
from launcher.bench.stats.signed_rank import Interval
from launcher.bench.store import hosts
from launcher.bench.store.receipts import NothingMeasured, Receipts, Round, Writer, read
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from launcher.tables import console
from launcher.words import say
from shared.errors import EXIT_FINE, EXIT_INTERRUPTED, LabError

TARGETS: dict[str, tuple[str, float]] = {
    AGAIN: ("at most", 0.01),
    "A+5%": ("at least", 0.90),
    "A+10%": ("at least", 0.99),
}
"""How often "regressed" is to be said of each arm against A."""
MOST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Row:
    """How often "regressed" was said of one arm against A."""

    head: str
    kind: str
    duels: int
    regressed: int
    bounds: Interval
    outcomes: Counter[str]
    remark: str

    @property
    def is_met(self) -> bool:
        """Whether the target is met, as far as the share goes."""
        relation, share = TARGETS[self.head]
        found = self.regressed / self.duels
        return found <= share if relation == "at most" else found >= share


def main(argv: Sequence[str] | None = None) -> int:
    """Go on with the calibration and print the table; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except LabError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted: what was recorded is kept")
        return EXIT_INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    path, duels_path = Path(args.output).with_suffix(".jsonl"), Path(f"{Path(args.output).with_suffix('')}-duels.jsonl")
    was_interrupted = False
    with terminated_as_interrupted():
        try:
            case, arms, rounds = _record(path, duels_path, args)
        except KeyboardInterrupt:
            if not path.exists():
                raise
            was_interrupted = True
            stored = read(path)
            name, arms = recording.arms_of(stored)
            case, rounds = get(name), stored.rounds
        try:
            if not was_interrupted:
                fight(case, arms, duels_path, args.real)
        except KeyboardInterrupt:
            was_interrupted = True
    _print_recording(arms, rounds, path)
    rows = [*_virtual(rounds, args.duels), *_real(duels_path)]
    _print_table(rows)
    return EXIT_INTERRUPTED if was_interrupted else EXIT_FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/calibrate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="how long the recording is to be in all (%(default)s)"
    )
    parser.add_argument("--real", type=int, default=10, metavar="N", help="real duels of each pair (%(default)s)")
    parser.add_argument("--duels", type=int, default=1000, metavar="N", help="virtual duels of each pair (%(default)s)")
    parser.add_argument("--waker", default=DEFAULT_WAKER, help="what A is (%(default)s)")
    parser.add_argument("--case", default="wake", help="%(default)s")
    parser.add_argument("--engine", default=AUTO, help="%(default)s")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="set a parameter of the case (repeatable)")
    parser.add_argument(
        "-o",
        "--output",
        default="data/calibration",
        metavar="NAME",
        help="NAME.jsonl and NAME-duels.jsonl (%(default)s)",
    )
    return parser


# ---- The recording ----


def _record(path: Path, duels_path: Path, args: argparse.Namespace) -> tuple[Case, Arms, list[Round]]:
    """Begin or go on with the recording until it is long enough."""
    with progress() as tell:
        if path.exists():
            writer, stored = Writer.resume(path)
            name, arms = recording.arms_of(stored)
            case, rounds = get(name), stored.rounds
            if _left_s(rounds, args) > 0 or any(_fought(duels_path)[head] < args.real for head in TARGETS):
                _expect_this_machine(stored)
        else:
            case, rounds = get(args.case), []
            side = parse(case, args.waker, args.engine, args.set or ())
            arms = recording.choose_arms(
                case, side, random.randrange(1 << 31), lambda number, _: tell(f"the p50 of A: round {number + 1}")
            )
            writer = recording.create(path, case, arms, shlex.join(["scripts/calibrate", *sys.argv[1:]]))
        with writer:
            recording.go_on(
                arms.rota(case),
                writer,
                rounds,
                _left_s(rounds, args),
                lambda block, side: tell(f"recording block {block}: {side.name}"),
            )
    return case, arms, rounds


def _left_s(rounds: list[Round], args: argparse.Namespace) -> float:
    return float(args.minutes * 60 - sum(round_.duration_ns for round_ in rounds) / 1e9)


def _expect_this_machine(stored: Receipts) -> None:
    """Raise `LabError` when the recording is another machine's: the delays in it are shares of the p50 of that one."""
    if apart := hosts.decisive_differences(stored.run.host, provenance.host(0)):
        raise LabError(
            f"{stored.path} was begun on another machine ({'; '.join(apart)}) and can only be read here, "
            "with --minutes 0 --real 0; name another file with -o to calibrate this one"
        )


def _print_recording(arms: Arms, rounds: list[Round], path: Path) -> None:
    seconds = sum(round_.duration_ns for round_ in rounds) / 1e9
    blocks = len({round_.block for round_ in rounds})
    print(
        f"{path}: {len(rounds)} rounds of {arms.rings} rings in {blocks} blocks, {seconds / 60:.1f} min, "
        f"{path.stat().st_size / 1e6:.1f} MB; A is {arms.wakers[BASE]} on {arms.engine}, p50 {arms.p50_ns / 1e3:.1f} us"
    )
    for sentence in what_is_broken(rounds):
        print(f"  broken, and its block left out: {sentence}")
    for arm in list(arms.wakers)[1:]:
        found, interval = recording.achieved(rounds, arm)
        print(
            f"  {arm} ({arms.wakers[arm]}): p50 {percent(found)} ({percent(interval.low)} .. {percent(interval.high)})"
        )


# ---- Duels ----


def _virtual(rounds: list[Round], duels: int) -> Iterator[Row]:
    """Judge virtual duels, as long as real ones would be."""
    try:
        recorded = calibration.record(rounds)
    except NothingMeasured as nothing:
        say(str(nothing))
        return
    round_s = sum(round_.duration_ns for round_ in rounds) / 1e9 / len(rounds)
    blocks = duel.choose_blocks(6 * round_s, duel.SHARE * (duel.DEFAULT_SECONDS - 3 * round_s))
    if blocks > recorded.blocks // 2:
        say(f"a duel here has {blocks} blocks, and the recording {recorded.blocks}: windows of half of it are judged")
        blocks = max(1, recorded.blocks // 2)
    for head in TARGETS:
        # A and A' leave nobody to be the control, which could only take false alarms away.
        control = None if head == AGAIN else AGAIN
        with suppress(NothingMeasured):
            rates = calibration.virtual_duels(recorded, BASE, head, control, blocks=blocks, duels=duels)
            remark = f"{blocks} blocks at most, {rates.mean_blocks:.0f} on average; "
            remark += f"{rates.windows} different windows, {rates.independent} apart"
            regressed = rates.outcomes[Outcome.REGRESSED]
            yield Row(head, "virtual", duels, regressed, rates.bounds(Outcome.REGRESSED), rates.outcomes, remark)


def fight(case: Case, arms: Arms, path: Path, wanted: int, seconds: float = duel.DEFAULT_SECONDS) -> None:
    """Fight real duels, one line of JSON each, until there are so many of each pair."""
    sides = {side.name: side for side in arms.rota(case).sides}
    done = _fought(path)
    with progress() as tell:
        for number in range(wanted):
            for head in TARGETS:
                if done[head] > number:
                    continue
                tell(f"real duel {number + 1} of {wanted}: {head} against A")
                # A' is an arm of its own here, so the control is A''.
                arms_of_it = [sides[BASE], sides[head], sides[BASE].again().again()]
                rota = Rota(case, arms_of_it, arms.rings, random.randrange(1 << 31))
                line = _fight_one(rota, head, seconds)
                path.parent.mkdir(parents=True, exist_ok=True)
                _append(path, json.dumps(line, allow_nan=False))


def _fight_one(rota: Rota, head: str, seconds: float) -> dict[str, object]:
    began_s, rounds = monotonic(), list[Round]()
    plan = duel.begin(rota, Settings(), seconds, rounds.append)
    if not rounds:
        duel.fight(rota, plan, rounds.append, began_s + seconds)
    verdict = plan.judge(rounds)
    took_s = round(monotonic() - began_s, 1)
    return {
        "head": head,
        "outcome": str(verdict.outcome),
        "seconds": took_s,
        "plan": plan.to_json(),
        "sentence": verdict.sentence,
        "quantiles": [found.to_json() for found in verdict.quantiles],
    }


def _real(path: Path) -> Iterator[Row]:
    lines = list(_lines(path))
    for head in TARGETS:
        mine = [line for line in lines if line["head"] == head]
        if mine:
            outcomes = Counter(str(line["outcome"]) for line in mine)
            regressed = outcomes[Outcome.REGRESSED]
            longest_s = max(float(line["seconds"]) for line in mine)
            remark = f"the longest took {longest_s:.0f} s" + ("" if longest_s <= MOST_SECONDS else ": TOO LONG")
            bounds = statistics.share_bounds(regressed, len(mine))
            yield Row(head, "real", len(mine), regressed, bounds, outcomes, remark)


def _fought(path: Path) -> Counter[str]:
    """Return how many real duels of each pair are in the file."""
    return Counter(line["head"] for line in _lines(path))


def _append(path: Path, line: str) -> None:
    is_torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if is_torn else "") + line + "\n")


def _lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the duels that are there; one that was cut off is none."""
    with suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                yield json.loads(line)


def _print_table(rows: Sequence[Row]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("A against", "duels", "regressed", "95 % bounds", "not regressed", "cannot tell", "target", ""):
        table.add_column(heading, no_wrap=True)
    table.add_column("remark")
    for row in rows:
        relation, share = TARGETS[row.head]
        others = [
            row.outcomes[Outcome.NOT_REGRESSED] + row.outcomes[Outcome.IMPROVED],
            row.outcomes[Outcome.CANNOT_TELL],
        ]
        table.add_row(
            row.head,
            f"{row.duels} {row.kind}",
            f"{100 * row.regressed / row.duels:.1f} %",
            f"{100 * row.bounds.low:.1f} .. {100 * row.bounds.high:.1f} %",
            *(f"{100 * count / row.duels:.1f} %" for count in others),
            f"{relation} {100 * share:g} %",
            "met" if row.is_met else "NOT MET",
            row.remark,
        )
    console().print(table)
    if not rows:
        say("there are no duels yet: record more (--minutes), or fight some (--real)")


if __name__ == "__main__":
    sys.exit(main())
