"""What can be done with stored receipts from the command line: compare two files, export one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launcher.bench import exporters, receipts
from launcher.bench.compare import compare, to_line
from launcher.bench.terminal import say
from launcher.bench.verdict import Settings
from launcher.bench.verdict_table import asked, print_verdicts
from shared.errors import EXIT_FINE


def compare_files(args: argparse.Namespace) -> int:
    """Compare two files and return the exit code of the verdict."""
    base, head = receipts.read(Path(args.base)), receipts.read(Path(args.head))
    comparison = compare(base, head, Settings(delta=args.delta / 100), is_forced=args.force)
    for warning in comparison.warnings:
        say(warning)
    if args.json:
        print(to_line(comparison))
        return comparison.exit_code
    print_verdicts(comparison.verdicts)
    print(asked(comparison.verdicts[0]))
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
