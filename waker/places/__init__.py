"""Who waits: a forked child as in 2007, a stranger that is given all it needs, or a thread as in 2008.

Each place is two ends that agree: a `Channel` for the loop in waker/serve.py, and a `Place` for the Launcher. What
they differ in is what the Waker can see:

| place   | Guest memory                      | fds                                  | commands                  |
|---------|-----------------------------------|--------------------------------------|---------------------------|
| fork    | a private copy, stale from then on | those open at the fork, same numbers | ints down a pipe         |
| process | the same, mapped again, read-only | passed over a socket, own numbers    | messages on that socket   |
| thread  | the same mapping                  | the Launcher's                       | a queue; one byte snaps it |
"""

from __future__ import annotations

from collections.abc import Callable

from waker.api import Place, Setup
from waker.places.fork import ForkPlace
from waker.places.process import ProcessPlace
from waker.places.thread import ThreadPlace

PLACES: dict[str, Callable[[Setup], Place]] = {
    "fork": ForkPlace,
    "process": ProcessPlace,
    "thread": ThreadPlace,
}
"""The places by name, in the order in which they were invented, as far as they were."""
