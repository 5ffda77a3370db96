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

_MAX_TIMEOUT_S = 10_000_000  # a third of a year; the timer's own limit is beyond


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

    from launcher import commands
    from launcher.config import DEFAULT_WAKER

    parser = _Parser(prog="launcher", description="The waker laboratory: a small Launcher whose Waker can be swapped.")
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script for this shell")
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    run = sub.add_parser("run", help="run a Guest with the console on this terminal")
    run.add_argument(
        "image",
        nargs="?",
        default="echo",
        metavar="IMAGE",
        help="a built-in Guest (echo), an ELF32 file, or a .py file",
    )
    run.add_argument(
        "args", nargs="*", metavar="ARG", help="what the Guest is given besides; after -- if it begins with -"
    )
    run.add_argument("--engine", default="auto", help="what runs the Guest: auto, kvm, unicorn, python (%(default)s)")
    run.add_argument(
        "--waker",
        default=DEFAULT_WAKER,
        metavar="NAME",
        help="PLACE/STRATEGY[+BREAKER][+ring-aware] (default: %(default)s)",
    )
    run.add_argument("--memory", type=_mib, default=16, metavar="MIB", help="Guest memory (default: %(default)s)")
    run.add_argument("--rng", action="store_true", help="give the Guest entropy, from the kernel")
    run.add_argument("--rng-file", metavar="FILE", help="give the Guest entropy, from FILE")
    run.add_argument("--timeout", type=_seconds, metavar="S", help="stop a Guest that still runs after so long")
    run.add_argument("--verbose", action="store_true", help="say at the end what was counted")
    run.set_defaults(command=commands.run)

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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds") from None
    if not 0 < seconds <= _MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and {_MAX_TIMEOUT_S} seconds")
    return seconds


def _mib(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of MiB") from None
