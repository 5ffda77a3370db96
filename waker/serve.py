"""The Waker's whole life: look, break the Guest, be held, look again.

lguest's Waker of 2007 was this loop with a select() in it. Three rules make it one loop for every place:

- *Changes first.* A pass that sees a command obeys it and looks again before it breaks anybody: an fd that was
  unwatched in the same instant must not break the Guest.
- *Held means waiting for commands.* Between the break and the release the Waker looks at no source, but still obeys
  watch and unwatch (the Launcher waits for the answer) and still sees the Launcher die. So the release comes down
  the same channel as they do.
- *A release names a break.* The Launcher may have left the Guest for another reason while this break was under way.
  It releases up to the break it has seen, so a late break is never released before it was serviced.
"""

from __future__ import annotations

from shared.breaker import Breaker
from shared.page import BREAKS, Page
from shared.trace import WAKER_LANE, Stage, Trace
from shared.wire import PeerGone
from waker.api import Channel, Nudge, Release, Watch
from waker.watchset import WatchSet


def serve(channel: Channel, watched: WatchSet, breaker: Breaker, page: Page) -> None:
    """Wake the Launcher until it is gone; returns when the channel ends."""
    trace = Trace(page, WAKER_LANE)
    words, commands, is_tracing = page.words, channel.fileno(), trace.is_on
    breaks = words[BREAKS]  # goes on where a Waker that died left off
    try:
        while True:
            if not watched.has_news():  # a ring is level-triggered, like an fd: look before sleeping
                ready = watched.wait()
                if commands in ready:
                    _obey(channel, watched)
                    continue
                if not watched.is_ready(ready):
                    continue
            if is_tracing:
                trace.stamp(Stage.SEEN)
            breaks += 1
            words[BREAKS] = breaks
            if is_tracing:
                trace.stamp(Stage.BREAK)
            breaker.break_out()
            while _obey(channel, watched) < breaks:
                pass  # held
            if is_tracing:
                trace.stamp(Stage.RELEASED)
    except PeerGone:
        return  # the Launcher has gone; go too
    finally:
        trace.close()


def _obey(channel: Channel, watched: WatchSet) -> int:
    """Do what has come; return the highest break that it releases."""
    released = 0
    for command in channel.receive():
        if isinstance(command, Release):
            released = max(released, command.upto)
        elif isinstance(command, Watch):
            channel.answer(command.generation, watched.add(command.sources))
        elif isinstance(command, Nudge):
            watched.feed()
        else:
            watched.remove(command.tokens)
            channel.answer(command.generation, None)
    return released
