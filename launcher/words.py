"""What is said to the user beside the data: one line on standard error, which holds no surprise for a terminal.

A file's name and a Guest's last words may hold anything: sequences that a terminal obeys, ends of lines, what reorders
text. They are shown, never sent.
"""

from __future__ import annotations

import os
import shlex
import sys


def shown(text: str) -> str:
    """Return the text with an escape in place of all that is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def called(command: str) -> str:
    """Return a command line of ours as this program was called: a fresh clone has no `launcher` on its path."""
    if not command.startswith("launcher"):  # a script's
        return command
    return shlex.quote(os.environ.get("LAUNCHER_PROGRAM") or "launcher") + command.removeprefix("launcher")


def say(sentence: str) -> None:
    """Say something that is not data."""
    write_aside(f"launcher: {shown(sentence)}\n")


def write_aside(text: str) -> None:
    """Write on standard error, as it is. Where nobody reads that any more, what was found stands all the same."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Python flushes once more at exit, and would leave with 120
