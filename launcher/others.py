"""`ps`, `stats`, `stop`: what can be asked of a Launcher that runs already, from another terminal."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from time import monotonic

from launcher.running import HasEnded, Running, find_all, open_one, open_process, wait_for_end
from launcher.words import say, shown
from shared.errors import EXIT_FINE, LabError, UsageError

_AGAIN_S = 1.0  # a Guest in Python that never yields takes a second signal (launcher/stop.py)


def ps(args: argparse.Namespace) -> int:
    """List the Launchers that run, the oldest first."""
    with find_all() as found:
        rows = [_row(one) for one in found.running]
    if args.json:
        for row in rows:
            print(json.dumps(row))
    elif rows:
        names = [name for name in rows[0] if name != "version"]
        _print_table(
            [[_heading(name) for name in names], *([_cell(name, row[name]) for name in names] for row in rows)]
        )
    else:
        say("no Launcher runs")
    if found.has_skipped:
        say("processes that this user may not look into were skipped")
    return EXIT_FINE


def stats(args: argparse.Namespace) -> int:
    """Print what a Launcher has counted so far, once or again and again until it has ended."""
    with open_process(args.pid) as pidfd:
        _show_stats(args.pid, pidfd, is_json=args.json)
        while args.watch is not None and not wait_for_end(pidfd, args.watch):
            if not args.json:
                print()
            try:
                _show_stats(args.pid, pidfd, is_json=args.json)  # found anew: its Guest may have restarted
            except HasEnded:
                break
    return EXIT_FINE


def stop(args: argparse.Namespace) -> int:
    """Have a Launcher stop as by ^C, or end it at once, and wait until it is gone."""
    with open_process(args.pid) as pidfd:
        with open_one(args.pid, pidfd) as running:
            guest = running.who.guest
        what = f"launcher {args.pid} (guest {guest})"
        signo = signal.SIGKILL if args.kill else signal.SIGTERM
        end = monotonic() + args.patience
        while True:
            try:
                signal.pidfd_send_signal(pidfd, signo)
            except ProcessLookupError:
                break
            except PermissionError as error:
                raise UsageError(f"{what}: this user may not stop it; ask as its own user, or as root") from error
            if wait_for_end(pidfd, max(0.0, min(_AGAIN_S, end - monotonic()))):
                break
            if monotonic() >= end:
                remedy = "" if args.kill else "; --kill ends it at once"
                raise LabError(f"{what}: still runs {args.patience:g} s after {signo.name}{remedy}")
    say(f"{what} has stopped")
    return EXIT_FINE


def _row(one: Running) -> dict[str, object]:
    counted = one.counters() if one.is_countable else {}
    return {
        "pid": one.pid,
        "guest": one.who.guest,
        "engine": one.who.engine,
        "waker": one.who.waker,
        "uptime_s": round(one.uptime_s, 1),
        "restarts": one.who.restarts,
        "breaks": counted.get("breaks"),
        "wakes": counted.get("wakes"),
        "version": one.who.version,
    }


def _show_stats(pid: int, pidfd: int, *, is_json: bool) -> None:
    with open_one(pid, pidfd) as running:
        if not running.is_countable:
            raise UsageError(
                f"process {pid}: is a launcher of another version ({running.who.version}), with other counters; "
                f"ask with the launcher that it was started with"
            )
        _print_stats(running, is_json=is_json)


def _print_stats(one: Running, *, is_json: bool) -> None:
    counters, devices = one.counters(), one.devices()
    if is_json:
        row = _row(one) | counters | {"devices": [device._asdict() for device in devices]}
        print(json.dumps(row), flush=True)
        return
    who = one.who
    again = f", restart {who.restarts}" if who.restarts else ""
    print(shown(f"guest {who.guest}, engine {who.engine}, waker {who.waker}, up {_time(one.uptime_s)}{again}"))
    _print_table([list(counters), [str(count) for count in counters.values()]])
    if devices:
        _print_table([["device", *devices[0]._fields[1:]], *(list(map(str, device)) for device in devices)])
    sys.stdout.flush()


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they must be, numbers to the right."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_number = [all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, is_number, strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())


def _heading(name: str) -> str:
    return name.removesuffix("_s")


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    return _time(value) if name == "uptime_s" and isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}"
