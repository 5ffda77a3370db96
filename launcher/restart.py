"""The Guest asks to begin anew: the Launcher becomes, by execv, the program that it was when it was started.

As in lguest (restart_guest()): nothing that a Guest did to its Launcher can outlive it. By then the machine is closed:
the Waker has ended and was waited for, devices are closed, the terminal is as it was found. What the Launcher opened
besides goes with the old program, for every fd of ours is CLOEXEC; what it was given by its parent stays.

The danger is a signal that asks to stop, from the moment at which the Guest asked to restart to the one at which the
new program has handlers: a Guest that restarts for ever must be stoppable at each. A signal that comes early is in the
socket of `StopRequests`; one that comes in between would be swallowed with it, or by an interpreter that has noted it
and is replaced before it acts, or kill the new one half way. So they are blocked *first*, then the socket is looked at
once more, and blocked they stay across execv, which keeps what is pending. (No other thread is left that could take
one: they ended with the machine.) The new program lets them in as soon as it has handlers for them. So a restarted
Launcher stops with the same sentence and exit code as any.

`--timeout` is for the whole run, restarts included: its timer outlives execv (setitimer(2)) and just goes on.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from launcher.stop import StopRequests
from shared.errors import CannotRunError

_VARIABLE = "LAUNCHER_RESTARTS"


def take_count() -> int:
    """Return how often this process has restarted its Guest, once: what it starts itself is not to inherit that."""
    text = os.environ.pop(_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def begin_anew(stop: StopRequests, count: int) -> NoReturn:
    """Run this very command line again in this very process; `count` is how often that will have been done then.

    The machine is closed. Raises `Interrupted` when somebody asked to stop before.
    """
    stop.hold_back()
    sys.stdout.flush()
    sys.stderr.flush()
    # orig_argv has what sys.argv lacks: the interpreter's own options, and -m.
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_VARIABLE: str(count)})
    except OSError as error:
        raise CannotRunError(f"restart: cannot run {sys.executable} again: {error.strerror}") from error
