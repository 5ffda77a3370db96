"""The Waker as a process of its own: `python -m waker` with a socket as standard input. Nobody types this."""

from __future__ import annotations

import sys

from waker.places.process import live_as_process

if __name__ == "__main__":
    sys.exit(live_as_process(0))
