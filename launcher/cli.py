"""Arguments in, exit code out; no logic.

Data goes to standard output, everything else to standard error. Whatever is raised on purpose (`LabError`) becomes
one sentence and its exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from shared.errors import EXIT_ERROR, EXIT_INTERRUPTED, Interrupted, LabError, UsageError
from shared.linux import is_open


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the exit code that means so."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; the main thread only."""
    _fill_standard_files()
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        code: int = args.command(args)
        sys.stdout.flush()
    except (LabError, Interrupted) as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _drop_unwritten_output()
        return _say("standard output was closed before all was written", EXIT_ERROR)
    except OSError as error:
        _drop_unwritten_output()
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_ERROR)
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    for arg in argv:
        if arg.startswith("--") and arg.endswith("=--"):  # argparse would hand over an empty list
            raise UsageError(f"option '{arg.removesuffix('=--')}' needs a value, not '--'")
    return make_parser().parse_args(argv)


def _say(sentence: str, code: int) -> int:
    # A file's name or a Guest's words may hold anything; what reaches the terminal is one line without surprises.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    print(f"launcher: {shown}", file=sys.stderr)
    return code


def _drop_unwritten_output() -> None:
    """Drop what cannot be written, and nothing else: Python would complain of it when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    import shtab

    from launcher import commands, options, others

    parser = _Parser(prog="launcher", description="The waker laboratory: a small Launcher whose Waker can be swapped.")
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script for this shell")
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

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

    list_ = sub.add_parser("list", help="list the wakers, breakers, engines or guests there are")
    kinds = ("wakers", "breakers", "engines", "guests")
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
    return parser
