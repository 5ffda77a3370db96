"""Who waits: a forked child as in 2007, a stranger that is given all it needs, or a thread as in 2008.

Each place is two ends that agree: a `Channel` for the loop in waker/serve.py, and a `Place` for the Launcher. What
they differ in is what the Waker can see:

| place   | Guest memory                      | fds                                  | commands                  |
|---------|-----------------------------------|--------------------------------------|---------------------------|
| fork    | a private copy, stale from then on | those open at the fork, same numbers | ints down a pipe         |
| process | the same, mapped again, read-only | passed over a socket, own numbers    | messages on that socket   |
| thread  | the same mapping                  | the Launcher's                       | a queue; one byte snaps it |

| inline  | the Launcher's                    | the Launcher's                       | calls: nobody waits       |

A place is loaded when it is asked for: the process Waker's start-up is its own, and carries no other's weight.
"""

from __future__ import annotations

from importlib import import_module

from waker.api import Place, Setup

# In the order in which they were invented, as far as they were.
_CLASSES = {"fork": "ForkPlace", "thread": "ThreadPlace", "process": "ProcessPlace"}


def place_names() -> list[str]:
    """Return the names of all places, in historical order."""
    return list(_CLASSES)


def start_place(name: str, setup: Setup) -> Place:
    """Start a Waker in this place; what that raises, `waker.start` says."""
    place: Place = _load(name)(setup)
    return place


def place_description(name: str) -> str:
    """Return what this place is: the first line of its class."""
    return (_load(name).__doc__ or "").split("\n", 1)[0]


def _load(name: str) -> type:
    loaded: type = getattr(import_module(f"waker.places.{name}"), _CLASSES.get(name, "InlineWaker"))
    return loaded
