"""What can be done with stored receipts from the command line: compare two files, export one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from launcher.bench.judging.compare import compare
from launcher.bench.judging.verdict import Settings
from launcher.bench.show.next import after_compare
from launcher.bench.show.verdict_table import asked, print_verdicts
from launcher.bench.store import exporters, receipts
from launcher.tables import printed
from launcher.words import called, say
from shared.errors import EXIT_FINE, UsageError


def compare_files(args: argparse.Namespace) -> int:
    """Compare two files and return the exit code of the verdict."""
    base, head = receipts.read(Path(args.base)), receipts.read(Path(args.head))
    settings = Settings(delta=args.delta / 100, alpha=args.alpha / 100)
    comparison = compare(base, head, settings, is_forced=args.force)
    for warning in comparison.warnings:
        say(warning)
    worst, among = comparison.worst, len(comparison.verdicts)
    then = called(after_compare(worst, base, head))
    with printed(comparison.exit_code):
        if args.json:
            line = comparison.to_json() | {"receipts": [args.base, args.head], "next": then}
            print(json.dumps(line, allow_nan=False))
        else:
            print_verdicts(comparison.verdicts)
            print(asked(settings) + (f"; {among} arms share alpha" if among > 1 else ""))
            if among > 1:
                print(f"the worst decides: {worst.head}: {worst.outcome}")
            print(f"next: {then}")
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
        path = Path(args.output)
        receipts.expect_new(path)
        try:
            # As it is: a CSV file has its own ends of line.
            path.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return EXIT_FINE
