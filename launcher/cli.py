"""Arguments in, exit code out; no logic.

Data goes to standard output, everything else to standard error. Whatever is raised on purpose (`LabError`) becomes
one sentence and its exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any

from launcher.words import called, say
from shared.errors import EXIT_ERROR, EXIT_INTERRUPTED, Interrupted, LabError, Unread, UsageError
from shared.linux import is_open


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the exit code that means so."""

    def __init__(self, **options: Any) -> None:
        # No half of an option's name: what was typed is kept beside what was measured, and taken apart to replay it.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise `UsageError`, where argparse would leave."""
        raise UsageError(f"{message} (see {called(self.prog)} --help)")


class _PrintCompletion(argparse.Action):
    """Loads shtab only when it is asked for: every command would start 20 ms later."""

    def __call__(self, parser: argparse.ArgumentParser, _space: object, shell: object, _option: object = None) -> None:
        import shtab

        self.choices = shtab.SUPPORTED_SHELLS  # the script completes this option, too
        if shell not in self.choices:
            raise argparse.ArgumentError(self, f"{shell!r} is not known; there are {', '.join(self.choices)}")
        print(shtab.complete(parser, shell))
        parser.exit()


def main(argv: Sequence[str] | None = None, make: Callable[[], Parser] | None = None) -> int:
    """Run one command line and return its exit code; the main thread only.

    `make` returns the parser of a script that is to say no as the launcher does.
    """
    _fill_standard_files()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may have no arrow, and numbers all the same
    try:
        args = _parse(sys.argv[1:] if argv is None else argv, make or make_parser)
        code: int = args.command(args)
        sys.stdout.flush()
    except (LabError, Interrupted) as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if _drop_unwritten_output() or isinstance(error, BrokenPipeError):
            return _say(str(Unread(why=error)), EXIT_ERROR)
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_ERROR)
    return code


def _parse(argv: Sequence[str], make: Callable[[], Parser]) -> argparse.Namespace:
    for arg in argv:
        if arg.startswith("--") and arg.endswith("=--"):  # argparse would hand over an empty list
            raise UsageError(f"option '{arg.removesuffix('=--')}' needs a value, not '--'")
    return make().parse_args(argv)


def _say(sentence: str, code: int) -> int:
    _drop_unwritten_output()
    say(sentence)
    return code


def _drop_unwritten_output() -> bool:
    """Drop what cannot be written, and nothing else: Python would complain of it when it flushes at exit.

    Return whether there was any.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False


def _fill_standard_files() -> None:
    """Put something where standard input, output or error is closed (`<&-`).

    Else the next file that is opened gets its number: the console would read the signals' socket, or write into
    Guest memory. Writing to what stands in for standard output fails, as it does for any program.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if not is_open(fd):
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - open to the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    from launcher import commands, options, others

    parser = Parser(prog="launcher", description="The waker laboratory: a small Launcher whose Waker can be swapped.")
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, metavar="SHELL", help="print a completion script for this shell"
    )
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    run = sub.add_parser("run", help="run a Guest with the console on this terminal")
    options.add_to(run)  # a new option of run is a line there
    run.set_defaults(command=commands.run)

    ps = sub.add_parser("ps", help="list the Launchers that run")
    ps.add_argument("--json", action="store_true", help="as JSON Lines")
    ps.set_defaults(command=others.ps)

    stats = sub.add_parser("stats", help="print what a running Launcher has counted so far")
    stats.add_argument("pid", type=int, metavar="PID", help="its process; see launcher ps")
    stats.add_argument("--watch", type=options.seconds, metavar="S", help="again each S seconds, until it has ended")
    stats.add_argument("--json", action="store_true", help="as JSON Lines")
    stats.set_defaults(command=others.stats)

    stop = sub.add_parser("stop", help="stop a running Launcher, and wait until it is gone")
    stop.add_argument("pid", type=int, metavar="PID", help="its process; see launcher ps")
    stop.add_argument(
        "--patience", type=options.seconds, default=10.0, metavar="S", help="wait so long (default: %(default)g)"
    )
    stop.add_argument("--kill", action="store_true", help="end it at once, by SIGKILL")
    stop.set_defaults(command=others.stop)

    list_ = sub.add_parser("list", help="list the wakers, breakers, engines, guests, cases or exporters there are")
    kinds = ("wakers", "breakers", "engines", "guests", "cases", "exporters")
    list_.add_argument("what", metavar=f"{{{','.join(kinds)}}}", choices=kinds, help="what to list")
    list_.add_argument("--json", action="store_true", help="as JSON Lines")
    list_.set_defaults(command=commands.list_)

    check = sub.add_parser("check", help="prove the rules W1-W12, Waker by Waker, engine by engine")
    check.add_argument("--waker", action="append", metavar="NAME", help="only this one (repeatable)")
    check.add_argument("--engine", action="append", help="only this one (repeatable)")
    check.add_argument(
        "--breaker",
        action="append",
        metavar="NAME",
        help="stop the Guest by this one, or by all that stop the engine, instead of its default (repeatable)",
    )
    check.add_argument("--rule", action="append", metavar="W", help="only this one (repeatable)")
    check.add_argument("--json", action="store_true", help="as JSON Lines")
    check.set_defaults(command=commands.check)
    _add_bench(sub)
    _add_duel(sub)
    _add_stored(sub)
    _add_doctor(sub)
    return parser


def _add_bench(sub: argparse._SubParsersAction[Parser]) -> None:
    from launcher import commands, options

    bench = sub.add_parser("bench", help="measure Wakers against each other, and against plain C")
    bench.add_argument("--case", default="wake", metavar="NAME", help="what is done to them (default: %(default)s)")
    bench.add_argument("--waker", action="append", metavar="NAME", help="only these; may hold * and ? (repeatable)")
    bench.add_argument("--engine", action="append", help="what runs the Guest (repeatable; default: auto)")
    bench.add_argument("--samples", type=_count, metavar="N", help="rings of each arm (default: what the time allows)")
    bench.add_argument("--seconds", type=options.seconds, metavar="S", help="about how long it may take (default: 45)")
    bench.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="set a parameter of the case, or vary it with NAME=VALUE,VALUE (repeatable; see list cases)",
    )
    bench.add_argument("--pin", metavar="HOW", help="processors: same, apart or free (as --set pin=HOW)")
    bench.add_argument("--stages", action="store_true", help="stamp all stages, and print where the time goes")
    bench.add_argument("--seed", type=_count, metavar="N", help="of gaps and order (default: a new one)")
    bench.add_argument(
        "--patience", type=options.seconds, metavar="S", help="after how long an unserved ring is lost (default: 5)"
    )
    bench.add_argument(
        "-o", "--output", type=_file, metavar="FILE", help="write the receipts there (default: under XDG_STATE_HOME)"
    )
    bench.add_argument("--show", type=_file, metavar="FILE", help="measure nothing: print the table of these receipts")
    bench.add_argument("--json", action="store_true", help="as JSON Lines")
    bench.set_defaults(command=commands.bench)


def _add_duel(sub: argparse._SubParsersAction[Parser]) -> None:
    from launcher import commands, options

    duel = sub.add_parser("duel", help="judge two Wakers, two settings, or this code against an earlier revision")
    duel.add_argument("wakers", nargs="*", metavar="WAKER[@NAME=VALUE,…]", help="A and B: the base, and what is judged")
    duel.add_argument("--against", metavar="GIT_REV", help="the base is the same Waker, out of that revision's code")
    duel.add_argument("--case", default="wake", metavar="NAME", help="what is done to them (default: %(default)s)")
    duel.add_argument("--engine", help="what runs the Guest (default: auto)")
    duel.add_argument("--set", action="append", metavar="NAME=VALUE", help="set a parameter of both (repeatable)")
    duel.add_argument("--a", action="append", metavar="NAME=VALUE", help="set a parameter of A alone (repeatable)")
    duel.add_argument("--b", action="append", metavar="NAME=VALUE", help="set a parameter of B alone (repeatable)")
    duel.add_argument("--pin", metavar="HOW", help="processors: same, apart or free (as --set pin=HOW; default: apart)")
    duel.add_argument("--seconds", type=options.seconds, metavar="S", help="how long it may take (default: 100)")
    duel.add_argument("--rings", type=_count, metavar="N", help="rings of a round (default: as the case needs)")
    duel.add_argument(
        "--patience", type=options.seconds, metavar="S", help="after how long an unserved ring is lost (default: 5)"
    )
    duel.add_argument("--delta", type=_percent, metavar="PERCENT", help="what is too small to matter (default: 3)")
    duel.add_argument("--alpha", type=_percent, metavar="PERCENT", help="how often a false alarm may be (default: 1)")
    duel.add_argument("--seed", type=_count, metavar="N", help="of gaps and order (default: a new one)")
    duel.add_argument(
        "-o", "--output", type=_file, metavar="FILE", help="write the receipts there (default: under XDG_STATE_HOME)"
    )
    duel.add_argument("--show", type=_file, metavar="FILE", help="measure nothing: judge the duel in these receipts")
    duel.add_argument("--github", action="store_true", help="annotate as GitHub Actions does (there: by itself)")
    duel.add_argument("--json", action="store_true", help="as JSON Lines")
    duel.set_defaults(command=commands.duel)


def _add_stored(sub: argparse._SubParsersAction[Parser]) -> None:
    from launcher import commands

    compare = sub.add_parser("compare", help="compare two files of receipts: weaker evidence than a duel")
    compare.add_argument("base", type=_file, metavar="BASE", help="receipts of what there was")
    compare.add_argument("head", type=_file, metavar="HEAD", help="receipts of what there is now")
    compare.add_argument(
        "--delta", type=_percent, default=3.0, metavar="PERCENT", help="what is too small to matter (default: 3)"
    )
    compare.add_argument(
        "--alpha", type=_percent, default=1.0, metavar="PERCENT", help="how often a false alarm may be (default: 1)"
    )
    compare.add_argument("--force", action="store_true", help="also where the machines differ")
    compare.add_argument("--json", action="store_true", help="as JSON Lines")
    compare.set_defaults(command=commands.compare)

    export = sub.add_parser("export", help="write receipts in the format of another tool")
    export.add_argument("receipts", type=_file, metavar="RECEIPTS", help="a file that bench or duel wrote")
    export.add_argument("--format", metavar="NAME", help="which one: see list exporters")
    export.add_argument("-o", "--output", type=_file, metavar="FILE", help="where to (default: standard output)")
    export.set_defaults(command=commands.export)


def _file(text: str) -> str:
    if not text:  # of a variable that is not set; as a path it would be this folder
        raise argparse.ArgumentTypeError("'' is no file's name")
    return text


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage") from None
    if not 0 < percent < 50:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0 and below 50 percent")
    return percent


def _add_doctor(sub: argparse._SubParsersAction[Parser]) -> None:
    from launcher import commands, options

    doctor = sub.add_parser("doctor", help="say what this machine can run, and how far its times can be trusted")
    doctor.add_argument("--aa", action="store_true", help="measure it with identical arms: which gate is honest here")
    doctor.add_argument("--case", metavar="NAME", help="what --aa does to it (default: wake)")
    doctor.add_argument("--waker", metavar="NAME", help="of which Waker the arms of --aa are (default: process/select)")
    doctor.add_argument("--engine", help="what runs the Guest of --aa (default: auto)")
    doctor.add_argument("--seconds", type=options.seconds, metavar="S", help="how long --aa may take (default: 75)")
    doctor.add_argument(
        "-o", "--output", metavar="FILE", help="write the receipts of --aa there (default: under XDG_STATE_HOME)"
    )
    doctor.add_argument("--json", action="store_true", help="as JSON Lines")
    doctor.set_defaults(command=commands.doctor)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if not 0 < number < 1 << 31:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 1 and {(1 << 31) - 1}")
    return number
