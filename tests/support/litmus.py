"""The store-buffering litmus test: two processes, each stores its own word and then loads the other's.

If both load the old value, each CPU let its load overtake its store: what `fence` must prevent. Run as
`python -m tests.support.litmus fence|bare ROUNDS ENOUGH SECONDS`; it stops after ROUNDS, after ENOUGH violations
or after SECONDS, whichever comes first, and prints how many rounds it ran and how many were violated.
"""

from __future__ import annotations

import mmap
import os
import sys
from time import monotonic

from shared.linux import fence

# 32-bit words, each on a cache line of its own. A side writes: its word, what it read, where it stands.
X, Y, X_SEEN, Y_SEEN, X_STANDS, Y_STANDS = range(0, 6 * 16, 16)
STOP = 0xFFFFFFFF
# Both sides write all of this just before their word, which then waits in the store buffer behind it until the
# cache lines have come over from the other CPU: 2 to 4 % of the rounds are violated here, else 1 in 100,000.
BUSY = slice(256, 768)
BUSY_DATA = memoryview(bytes(4 * 512)).cast("I")
SPINS = 200


class Side:
    """One of the two processes: `mine` is X or Y, the other side's words are the other's."""

    def __init__(self, words: memoryview[int], mine: int, *, is_fenced: bool, peer: int) -> None:
        self.words, self.mine, self.other = words, mine, X + Y - mine
        self.is_fenced, self.peer = is_fenced, peer

    def meet(self, step: int) -> None:
        """Wait until both sides stand at `step`."""
        words, theirs = self.words, self.other + X_STANDS
        words[self.mine + X_STANDS] = step
        spins = 0
        while words[theirs] < step:
            spins += 1
            if spins > SPINS:
                # Under load the other side may not be running at all, perhaps for want of this very CPU.
                os.sched_yield()
                self.check_peer()

    def check_peer(self) -> None:
        gone = os.getppid() != self.peer if self.mine == Y else os.waitpid(self.peer, os.WNOHANG)[0] == self.peer
        if gone:
            sys.exit("litmus: the other side died")

    def store_and_load(self, value: int) -> None:
        words, mine, other = self.words, self.mine, self.other
        words[BUSY] = BUSY_DATA
        if self.is_fenced:
            words[mine] = value
            fence()
            seen = words[other]
        else:
            words[mine] = value
            seen = words[other]
        words[mine + X_SEEN] = seen

    def follow(self) -> None:
        """Run until the other side says stop."""
        step = 1
        while True:
            self.meet(step)
            if self.words[self.other + X_STANDS] == STOP:
                return
            self.store_and_load(step)
            self.meet(step + 1)
            step += 2

    def lead(self, rounds: int, enough: int, seconds: float) -> tuple[int, int]:
        """Run, count, and say stop; return the rounds run and those violated."""
        words = self.words
        ran = violated = 0
        end = monotonic() + seconds
        while ran < rounds and violated < enough and (ran % 256 or monotonic() < end):
            step = 2 * ran + 1
            self.meet(step)
            self.store_and_load(step)
            self.meet(step + 1)
            violated += words[X_SEEN] != step and words[Y_SEEN] != step
            ran += 1
        words[self.mine + X_STANDS] = STOP
        return ran, violated


def main() -> None:
    is_fenced = sys.argv[1] == "fence"
    rounds, enough, seconds = map(int, sys.argv[2:])
    words = memoryview(mmap.mmap(-1, 4096)).cast("I")
    cpus = sorted(os.sched_getaffinity(0))
    parent, child = os.getpid(), os.fork()
    os.sched_setaffinity(0, {cpus[0] if child else cpus[1]})
    if child:
        print(*Side(words, X, is_fenced=is_fenced, peer=child).lead(rounds, enough, seconds))
        os.waitpid(child, 0)
    else:
        Side(words, Y, is_fenced=is_fenced, peer=parent).follow()


if __name__ == "__main__":
    main()
