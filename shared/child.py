"""A fresh Python process that inherits nothing but one socket.

What a fork would carry along (a copy of memory, every open fd, signal handlers, a blocked kick signal) is exactly
what must not reach a Waker or a peer: they get what they need over the socket, as a stranger would.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

# Blocked in every child from its first instruction on. Its life is bound to its socket: ^C at a terminal reaches the
# whole group, and it must not die of what is meant for the Launcher.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)

# No pathlib below: it takes 2 of the 30 ms in which a Waker process is to be there.
_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120


def spawn(module: str, theirs: socket.socket, *titles: str) -> int:
    """Start `python -m module` with `theirs` as its standard input and return its pid.

    `titles` are arguments for the eyes of `ps` alone. Standard error stays the caller's, standard output is
    /dev/null. The child runs without site-packages (-S), which is most of an interpreter's start-up.
    """
    actions = [
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),  # first: where output is closed, the socket may be number 1
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-P", "-m", module, *titles],
        os.environ | {"PYTHONPATH": _ROOT},
        file_actions=actions,
        setsigmask=TERMINAL_SIGNALS,
        setsigdef=(signal.SIGTERM,),
    )


def forget_the_parent() -> None:
    """In the child, first of all: close what leaked in all the same."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
