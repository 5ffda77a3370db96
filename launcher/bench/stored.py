"""What can be done with stored receipts from the command line: compare two files, export one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launcher.bench.judging.compare import compare, to_line
from launcher.bench.judging.verdict import Settings
from launcher.bench.show.terminal import printed
from launcher.bench.show.verdict_table import asked, print_verdicts
from launcher.bench.store import exporters, receipts
from launcher.words import say
from shared.errors import EXIT_FINE


def compare_files(args: argparse.Namespace) -> int:
    """Compare two files and return the exit code of the verdict."""
    base, head = receipts.read(Path(args.base)), receipts.read(Path(args.head))
    comparison = compare(base, head, Settings(delta=args.delta / 100), is_forced=args.force)
    for warning in comparison.warnings:
        say(warning)
    with printed(comparison.exit_code):
        if args.json:
            print(to_line(comparison), flush=True)
        else:
            print_verdicts(comparison.verdicts)
            print(asked(comparison.verdicts[0]), flush=True)
    return comparison.exit_code


def export_file(args: argparse.Namespace) -> int:
    """Write one file in another tool's format."""
    read = receipts.read(Path(args.receipts))
    for note in read.notes:
        say(note)
    text = exporters.export(read, args.format)
    if args.output is None:
        sys.stdout.write(text)
    else:
        # As it is: a CSV file has its own ends of line.
        Path(args.output).write_text(text, encoding="utf-8", newline="")
    return EXIT_FINE
