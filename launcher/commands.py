"""What the commands do: each takes its arguments and returns an exit code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import waker
from launcher import engines, guests, options, restart
from launcher.api import Died, Restart
from launcher.config import RunConfig
from launcher.machine import Machine, open_machine
from launcher.outfit import make_devices, summaries
from launcher.stop import StopRequests
from launcher.words import say
from shared import breaker as breakers
from shared.breaker import INLINE
from shared.errors import EXIT_FINE, GuestDied, UsageError
from shared.page import INTERRUPTS, NOTIFIES, SPURIOUS, TAKEN


def run(args: argparse.Namespace) -> int:
    """Run a Guest with the console on standard input and output."""
    args = options.settle(args)
    restarts = restart.take_count()
    config = RunConfig(
        image=args.image,
        engine=args.engine,
        waker=args.waker,
        memory_mib=args.memory,
        args=tuple(args.args),
        initrd=args.initrd,
        has_rng=args.rng,
        rng_file=args.rng_file,
        tunnet=tuple(args.tunnet),
        restarts=restarts,
        block=tuple(args.block),
        block_io=args.block_io,
    )
    with StopRequests(args.timeout, is_continued=restarts > 0) as stop:
        with open_machine(config, lambda memory, page: make_devices(config, memory, page, stop), stop, say) as machine:
            engine, reason = machine.engine
            again = f", restart {restarts}" if restarts else ""
            say(f"guest {config.image}, engine {engine.name} ({reason}), waker {config.waker}{again}")
            exit_ = machine.loop.run()
            if args.verbose:
                say(_counts(machine))
                for sentence in summaries(machine.table.devices):
                    say(sentence)
        if isinstance(exit_, Restart):
            restart.begin_anew(stop, restarts + 1)
    if isinstance(exit_, Died):
        raise GuestDied(f"guest {config.image} died: {exit_.reason}")
    return EXIT_FINE


def list_(args: argparse.Namespace) -> int:
    """List what there is, one line each: its name, whether it runs here, what it is."""
    rows = {
        "wakers": _wakers,
        "breakers": _breakers,
        "engines": _engines,
        "guests": _guests,
        "cases": _cases,
        "exporters": _exporters,
    }[args.what]()
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return EXIT_FINE
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        why_not = f" (not here: {row['why_not']})" if row.get("why_not") else ""
        print(f"{row['name']!s:{width}}  {row['description']}{_stops(row)}{why_not}")
    return EXIT_FINE


def check(args: argparse.Namespace) -> int:
    """Prove the rules; see launcher/check/rules.py."""
    from launcher.check import report

    return report.main(args.waker, args.engine, args.rule, args.breaker, is_json=args.json)


def bench(args: argparse.Namespace) -> int:
    """Measure Wakers; see launcher/bench/command.py."""
    from launcher.bench import command
    from launcher.bench.measure.rounds import PATIENCE_S
    from launcher.bench.show.terminal import terminated_as_interrupted

    if args.show is not None:
        _expect_alone(args)
        return command.show(Path(args.show), is_json=args.json)
    request = command.Request(
        case=args.case,
        wakers=args.waker or (),
        engines=args.engine or (),
        settings=_settings(args),
        samples=args.samples,
        seconds=args.seconds,
        seed=args.seed,
        patience_s=args.patience or PATIENCE_S,
        is_tracing=args.stages,
        is_json=args.json,
        output=None if args.output is None else Path(args.output),
    )
    with terminated_as_interrupted():
        return command.main(request)


def duel(args: argparse.Namespace) -> int:
    """Judge two arms against each other; see launcher/bench/duels/duel.py."""
    from launcher.bench.duels import duel_command
    from launcher.bench.duels.duel import DEFAULT_SECONDS
    from launcher.bench.measure.rounds import PATIENCE_S
    from launcher.engines import AUTO

    request = duel_command.Request(
        case=args.case,
        wakers=args.wakers,
        against=args.against,
        engine=args.engine or AUTO,
        settings=_settings(args),
        own=(args.a or (), args.b or ()),
        seconds=args.seconds or DEFAULT_SECONDS,
        rings=args.rings,
        patience_s=args.patience or PATIENCE_S,
        delta=None if args.delta is None else args.delta / 100,
        alpha=None if args.alpha is None else args.alpha / 100,
        seed=args.seed,
        is_json=args.json,
        is_annotated=args.github,
        output=None if args.output is None else Path(args.output),
    )
    if args.show is not None:
        _expect_alone(args, "delta", "alpha", "github")
        return duel_command.show(Path(args.show), request)
    return duel_command.main(request)


def compare(args: argparse.Namespace) -> int:
    """Compare stored receipts; see launcher/bench/judging/compare.py."""
    from launcher.bench import stored

    return stored.compare_files(args)


def export(args: argparse.Namespace) -> int:
    """Export stored receipts; see launcher/bench/store/exporters/."""
    from launcher.bench import stored

    return stored.export_file(args)


def doctor(args: argparse.Namespace) -> int:
    """Look this machine over; see launcher/bench/doctor.py."""
    from launcher.bench import doctor
    from launcher.bench.duels import fitness_command
    from launcher.bench.show.terminal import terminated_as_interrupted

    output = None if args.output is None else Path(args.output)
    asked = fitness_command.Request(args.case, args.waker, args.engine, args.seconds, output, is_json=args.json)
    if not args.aa and asked != fitness_command.Request(is_json=args.json):
        raise UsageError("--seconds, --case, --waker, --engine and -o are for --aa: without it nothing is measured")
    with terminated_as_interrupted():
        code = doctor.main(is_json=args.json, is_first=args.aa)
    return fitness_command.main(asked) if args.aa and code == EXIT_FINE else code


def _settings(args: argparse.Namespace) -> list[str]:
    """Return what was set; --pin is one more way to say it."""
    return [*(args.set or ()), *([f"pin={args.pin}"] if args.pin is not None else ())]


def _expect_alone(args: argparse.Namespace, *beside: str) -> None:
    """Raise `UsageError` for what `--show` would leave unheeded: it measures nothing."""
    heeded = {"command", "show", "json", *beside}
    unsaid: tuple[object, ...] = (None, False, [], "wake")  # which is the default of --case
    if given := [name for name, value in vars(args).items() if name not in heeded and value not in unsaid]:
        raise UsageError(f"--show prints what was measured: it has no use for {', '.join(given)}; leave it out")


def _wakers() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "place": waker.parse(name).place,
            "strategy": waker.parse(name).strategy,
            "breakers": _breakers_of(name),
            "ring_aware": not waker.parse(name).needs_private_memory,
            "why_not": waker.why_not(name),
            "description": waker.description(name),
        }
        for name in waker.names()
    ]


def _breakers_of(waker_name: str) -> dict[str, tuple[str, ...]]:
    """Return what this Waker can stop each engine with, the default first; one that is inline has none."""
    if waker.parse(waker_name).place == INLINE:
        return {}
    found = [engines.get(name) for name in engines.names()]
    return {engine.name: engine.breakers for engine in found}


def _breakers() -> list[dict[str, object]]:
    return [
        {
            "name": kind,
            "engines": [engine.name for engine in engines.of_breaker(kind)],
            "default_of": [engine.name for engine in engines.of_breaker(kind) if engine.breakers[0] == kind],
            "why_not": breakers.missing(kind) or _why_no_engine(kind),
            "description": breakers.description(kind),
        }
        for kind in breakers.KINDS
    ]


def _why_no_engine(kind: str) -> str | None:
    """Return why none of the engines that this breaker stops can run here, or None when one can."""
    reasons = [engine.why_not() for engine in engines.of_breaker(kind)]
    return next(iter(reasons), "it stops no engine") if all(reasons) else None


def _stops(row: dict[str, object]) -> str:
    """Say which engines a breaker stops, for a row that knows."""
    names, defaults = row.get("engines"), row.get("default_of")
    if not isinstance(names, list) or not isinstance(defaults, list):
        return ""
    return f" [{', '.join(f'{name}: default' if name in defaults else name for name in names)}]"


def _engines() -> list[dict[str, object]]:
    found = [engines.get(name) for name in engines.names()]
    return [
        {"name": e.name, "breakers": e.breakers, "why_not": e.why_not(), "description": e.description} for e in found
    ]


def _guests() -> list[dict[str, object]]:
    return [{"name": name, "description": guests.description(name)} for name in guests.names()]


def _cases() -> list[dict[str, object]]:
    from launcher.bench.measure import cases

    return [
        {
            "name": case.name,
            "description": f"{case.measures}; set {' '.join(f'{k}={v}' for k, v in case.defaults().items())}",
            "measures": case.measures,
            "guest": case.guest,
            "parameters": {
                name: {"default": parameter.default, "help": parameter.help, "choices": parameter.choices}
                for name, parameter in case.parameters.items()
            },
            "yardsticks": case.yardsticks,
            "why_not": cases.why_nobody(case),
        }
        for case in cases.CASES.values()
    ]


def _exporters() -> list[dict[str, object]]:
    from launcher.bench.store import exporters

    return [{"name": name, "description": exporters.description(name)} for name in exporters.names()]


def _counts(machine: Machine) -> str:
    words = machine.page.words
    stats = machine.loop.waker.stats()
    return (
        f"{words[TAKEN]} breaks taken ({words[SPURIOUS]} for nothing), {words[NOTIFIES]} notifications, "
        f"{words[INTERRUPTS]} interrupts; the Waker woke {stats.wakes} times and was replaced {stats.replaced} times"
    )
