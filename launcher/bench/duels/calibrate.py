"""scripts/calibrate: how often a duel is wrong on this machine, and how often it finds what is there.

Three steps, each of which can be stopped and gone on with: a long recording (recording.py), a thousand virtual duels
for each pair of arms out of it (calibration.py), and some real duels of the same arms. Then a table against the
targets.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from launcher import cli
from launcher.bench.duels import duel, real_duels, recording
from launcher.bench.duels.recording import AGAIN, BASE, TARGETS, Arms
from launcher.bench.duels.sides import parse
from launcher.bench.judging import calibration
from launcher.bench.judging.judge import what_is_broken
from launcher.bench.judging.verdict import Outcome, percent
from launcher.bench.measure import provenance
from launcher.bench.measure.cases import get
from launcher.bench.show.rates import MET, Row, print_rates
from launcher.bench.show.terminal import progress, terminated_as_interrupted
from launcher.bench.store import hosts
from launcher.bench.store.receipts import NothingMeasured, Receipts, Round, Writer, read
from launcher.config import DEFAULT_WAKER
from launcher.engines import AUTO
from launcher.tables import printed
from launcher.words import say
from shared.errors import (
    EXIT_BROKEN_RULE,
    EXIT_FINE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_MEASURED,
    EXIT_UNDECIDED,
    LabError,
    UsageError,
    worst,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Go on with the calibration and print the table; return the exit code."""
    return cli.main(argv, _parser)


def _run(args: argparse.Namespace) -> int:
    name = args.output.removesuffix(".jsonl")
    path, duels_path = Path(f"{name}.jsonl"), Path(f"{name}-duels.jsonl")
    was_interrupted = False
    with terminated_as_interrupted():
        try:
            if args.minutes or args.real:
                _measure(path, duels_path, args)
        except KeyboardInterrupt:
            if not path.exists():
                raise
            was_interrupted = True
    stored = read(path)
    for note in stored.notes:
        say(note)
    _, arms = recording.arms_of(stored)
    broken = [*what_is_broken(stored.rounds), *real_duels.what_is_broken(duels_path)]
    rows = [*_virtual(stored.rounds, args.duels), *real_duels.rows(duels_path)]
    code = EXIT_BROKEN_RULE if broken else _conclude(rows)
    if was_interrupted:
        say("interrupted: what was recorded is kept")
        code = worst(code, EXIT_INTERRUPTED)
    with printed(code):
        _print_recording(arms, stored)
        for sentence in broken:
            print(f"  broken, and left out: {sentence}")
        if rows:
            print_rates(rows)
    return code


def _conclude(rows: Sequence[Row]) -> int:
    """Say what is missing, if anything; return the exit code."""
    if not rows:
        say("there are no duels yet: record more (--minutes), or fight some (--real)")
        return EXIT_NOTHING_MEASURED
    wanted = [(head, kind) for kind in ("virtual", "real") for head in TARGETS]
    if missing := [f"{head} ({kind})" for head, kind in wanted if (head, kind) not in [(r.head, r.kind) for r in rows]]:
        say(f"there are no duels of A against {', '.join(missing)}: record more (--minutes), or fight some (--real)")
    return EXIT_FINE if not missing and all(row.state == MET for row in rows) else EXIT_UNDECIDED


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="scripts/calibrate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.set_defaults(command=_run)
    parser.add_argument(
        "--minutes",
        type=_number(float, 0),
        default=25.0,
        help="how long the recording is to be in all (%(default)s); with --real 0, 0 only judges what is there",
    )
    parser.add_argument(
        "--real",
        type=_number(int, 0),
        default=real_duels.ENOUGH,
        metavar="N",
        help="real duels of each pair (%(default)s)",
    )
    parser.add_argument(
        "--duels", type=_number(int, 1), default=1000, metavar="N", help="virtual duels of each pair (%(default)s)"
    )
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


def _number(kind: Callable[[str], float], least: int) -> Callable[[str], float]:
    most = 1_000_000

    def read_number(text: str) -> float:
        with suppress(ValueError):
            if least <= (number := kind(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between {least} and {most}")

    return read_number


# ---- The recording ----


def _measure(path: Path, duels_path: Path, args: argparse.Namespace) -> None:
    """Begin or go on with the recording and the duels until there is enough of both."""
    with ExitStack() as closing:
        tell = closing.enter_context(progress())
        if path.exists():
            writer, stored = Writer.resume(path)
            closing.enter_context(writer)  # which holds the duels' file as well
            name, arms = recording.arms_of(stored)
            case, rounds = get(name), stored.rounds
            if _left_s(rounds, args) <= 0 and min(real_duels.fought(duels_path)[head] for head in TARGETS) >= args.real:
                return
            _expect_this_machine(stored)
        elif not args.minutes:
            raise UsageError(f"{path} is not there to be judged, or to fight with: record it with --minutes")
        else:
            case, rounds = get(args.case), []
            side = parse(case, args.waker, args.engine, args.set or ())
            arms = recording.choose_arms(
                case, side, random.randrange(1, 1 << 31), lambda number, _: tell(f"the p50 of A: round {number + 1}")
            )
            writer = recording.create(path, case, arms)
            closing.enter_context(writer)
        recording.go_on(
            arms.rota(case),
            writer,
            rounds,
            _left_s(rounds, args),
            lambda block, side: tell(f"recording block {block}: {side.name}"),
        )
        real_duels.fight(case, arms, duels_path, args.real, tell=tell)


def _left_s(rounds: list[Round], args: argparse.Namespace) -> float:
    return float(args.minutes * 60 - sum(round_.duration_ns for round_ in rounds) / 1e9)


def _expect_this_machine(stored: Receipts) -> None:
    """Raise `LabError` when the recording is another machine's: the delays in it are shares of the p50 of that one."""
    if apart := hosts.decisive_differences(stored.run.host, provenance.host(0)):
        raise LabError(
            f"{stored.path} was begun on another machine ({'; '.join(apart)}) and can only be read here, "
            "with --minutes 0 --real 0; name another file with -o to calibrate this one"
        )


def _print_recording(arms: Arms, stored: Receipts) -> None:
    rounds = stored.rounds
    seconds = sum(round_.duration_ns for round_ in rounds) / 1e9
    blocks = len({round_.block for round_ in rounds})
    print(
        f"{stored.path}: {len(rounds)} rounds of {arms.rings} rings in {blocks} blocks, {seconds / 60:.1f} min, "
        f"{stored.path.stat().st_size / 1e6:.1f} MB; "
        f"A is {arms.wakers[BASE]} on {arms.engine}, p50 {arms.p50_ns / 1e3:.1f} us"
    )
    for arm in TARGETS:
        found, interval = recording.achieved(rounds, arm)
        print(
            f"  {arm} ({arms.wakers[arm]}): p50 {percent(found)} ({percent(interval.low)} .. {percent(interval.high)})"
        )


def _virtual(rounds: list[Round], duels: int) -> Iterator[Row]:
    """Judge virtual duels, as long as real ones would be."""
    try:
        recorded = calibration.record(rounds)
    except NothingMeasured as nothing:
        say(str(nothing))
        return
    round_s = sum(round_.duration_ns for round_ in rounds) / 1e9 / len(rounds)
    blocks = duel.choose_blocks(6 * round_s, duel.SHARE * (duel.DEFAULT_SECONDS - 3 * round_s))
    reserve = ""
    if blocks > recorded.blocks // 2:
        wanted, blocks = blocks, max(1, recorded.blocks // 2)
        reserve = f"met so far (a duel has {wanted} blocks)"
    for head in TARGETS:
        # A and A' leave nobody to be the control, which could only take false alarms away.
        control = None if head == AGAIN else AGAIN
        with suppress(NothingMeasured):
            rates = calibration.virtual_duels(recorded, BASE, head, control, blocks=blocks, duels=duels)
            remark = f"{blocks} blocks at most, {rates.mean_blocks:.0f} on average; "
            remark += f"{rates.windows} different windows, {rates.independent} apart"
            bounds = rates.bounds(Outcome.REGRESSED)
            yield Row(head, "virtual", duels, rates.outcomes, bounds, TARGETS[head], remark, reserve)


if __name__ == "__main__":
    sys.exit(main())
