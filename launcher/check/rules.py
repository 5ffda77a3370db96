"""What every Waker must keep: W1 to W12, each a function that tries it and returns the evidence.

A rule raises `RuleBroken` when it does not hold, `RuleSkipped` when it cannot be tried here, and (W7, fork alone)
`ExpectedlyStale`. Anything else that is raised means broken, too.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import waker
from launcher.check.props import count_switches, filler, kill_a_launcher, many_fds, names_left, open_some
from launcher.check.rig import ExpectedlyRestless, ExpectedlyStale, RuleBroken, RuleSkipped, open_rig
from launcher.guests.idle import COUNTER
from shared.driverqueue import DriverQueue
from shared.errors import SourceRefused
from shared.page import LOOKED_IDX, LOOKS, SPURIOUS, WAKES
from shared.vring import ring_doorbell

EARLY_BREAKS = 50
DEATHS = 4
MANY = 10_000
GONE_WITHIN_S = 0.1
FD_SETSIZE = 1024
_RING_MEMORY = 0x20000

Rule = Callable[[str, str], str]


def w1_wakes(waker_name: str, engine: str) -> str:
    """A watched fd that becomes readable breaks the Guest."""
    with open_rig(waker_name, engine) as rig:
        for at in (0, 1, 0):
            rig.pulse.ring(at)
            rig.expect_break(f"source {at} became ready")
        rig.ring_later()
        rig.expect_break("a source became ready while the Guest was inside")
        _expect(rig.pulse.rung == 4, f"{rig.pulse.rung} of 4 rings were served")
        return "4 rings on 2 sources, before and after the Guest was entered, 4 served"


def w2_level(waker_name: str, engine: str) -> str:
    """Data left unread wakes again after the release."""
    with open_rig(waker_name, engine) as rig:
        rig.pulse.is_serving = False
        rig.pulse.ring()
        for again in range(3):
            rig.expect_break(f"unread data, look {again + 1}")
        rig.pulse.is_serving = True
        rig.expect_break("unread data, the last look")
        _expect(rig.pulse.rung == 1, f"{rig.pulse.rung} of 1 rings were served")
        rig.expect_quiet("the data was read")
        return "woken 4 times for one ring until it was read, then quiet"


def w3_quiet(waker_name: str, engine: str) -> str:
    """An unwatched or idle fd never breaks the Guest; nothing happening costs no wake-ups."""
    with open_rig(waker_name, engine) as rig:
        words = rig.machine.page.words
        rig.expect_quiet("nothing is ready")
        rig.machine.loop.unwatch([rig.pulse.sources[0]])
        rig.pulse.ring(0)
        rig.expect_quiet("an fd that is not watched is ready")
        wakes, switches = words[WAKES], count_switches(rig)
        rig.expect_quiet("nothing happens")
        if waker.parse(waker_name).strategy == "spin":
            raise ExpectedlyRestless(f"it never sleeps: looked {words[WAKES] - wakes} times while nothing happened")
        _expect(words[WAKES] == wakes, f"the strategy returned {words[WAKES] - wakes} times while nothing happened")
        moved = None if switches is None else (count_switches(rig) or 0) - switches
        _expect(not moved, f"the Waker was scheduled {moved} times while nothing happened")
        rig.pulse.ring(1)
        rig.expect_break("its neighbour became ready")
        return "no break, no return of the strategy" + ("" if moved is None else ", no context switch")


def w4_rewatch(waker_name: str, engine: str) -> str:
    """Data that arrived while unwatched wakes as soon as it is watched again."""
    with open_rig(waker_name, engine) as rig:
        source = rig.pulse.sources[0]
        for _ in range(5):
            rig.machine.loop.unwatch([source])
            rig.pulse.ring(0)
            rig.machine.loop.watch([source])
            rig.expect_break("watched again with data waiting")
        _expect(rig.pulse.rung == 5, f"{rig.pulse.rung} of 5 rings were served")
        if not waker.parse(waker_name).is_ring_aware:
            return "5 times data came while unwatched, 5 served on watching again"
        words = rig.machine.page.words
        for turn in range(2):
            rig.starve()
            rig.pulse.ring(1)
            rig.expect_quiet("data came for which the Guest had given no buffer")
            wakes = words[WAKES]
            rig.expect_quiet("the Guest had given no buffer yet")
            if waker.parse(waker_name).strategy != "spin":
                _expect(words[WAKES] == wakes, f"looked {words[WAKES] - wakes} times at what has no buffer")
            rig.feed()
            rig.expect_break("the Guest gave a buffer")
            _expect(rig.pulse.rung == 6 + turn, f"{rig.pulse.rung} of {6 + turn} rings were served")
        return "5 times data came while unwatched, and 2 times without a buffer: 7 served as soon as they could be"


def w5_held(waker_name: str, engine: str) -> str:
    """No second break before the first is released."""
    with open_rig(waker_name, engine) as rig:
        loop = rig.machine.loop
        rig.pulse.ring(0)
        held = rig.leave("source 0 became ready")
        before = rig.breaks
        rig.pulse.ring(1)
        rig.linger()
        _expect(rig.breaks == before, f"{rig.breaks - before} more breaks while the first was not released")
        # A held Waker must still obey: the Launcher waits for the answer.
        loop.unwatch([rig.pulse.sources[1]])
        loop.watch([rig.pulse.sources[1]])
        _expect(rig.breaks == before, "a change made a held Waker break again")
        loop.waker.release(held)
        rig.expect_break("released, with both sources ready")
        _expect(rig.pulse.rung == 2, f"{rig.pulse.rung} of 2 rings were served")
        return "held until released, obeying changes meanwhile"


def w6_early(waker_name: str, engine: str) -> str:
    """A break that lands between service and entry is not lost."""
    with open_rig(waker_name, engine) as rig:
        for turn in range(EARLY_BREAKS):
            rig.pulse.ring(turn % 2)
            rig.wait_for_break(f"ring {turn}")  # the break is made before the Guest is entered
            rig.expect_break(f"break {turn}, made outside the Guest")
        _expect(rig.pulse.rung == EARLY_BREAKS, f"{rig.pulse.rung} of {EARLY_BREAKS} rings were served")
        return f"{EARLY_BREAKS} breaks made before entry, none lost"


def w7_vring(waker_name: str, engine: str) -> str:
    """A vring fd is ready exactly when the ring has news, seen through the Waker's own mapping."""
    with open_rig(waker_name, engine) as rig, filler(rig) as fill:
        words, memory = rig.machine.page.words, rig.machine.memory
        guest: DriverQueue[int] = DriverQueue(memory, rig.vring.layout, "guest queue")
        for number in range(4):
            guest.add([], [(_RING_MEMORY + number * 64, 64)], number)
        counted = memory.view(COUNTER, 4).cast("I")

        looks = words[LOOKS]
        ring_doorbell(rig.vring.fd.doorbell)
        rig.expect_quiet("the doorbell rang, but the ring has no news")
        _expect(words[LOOKS] > looks, "the doorbell rang and the Waker did not look")

        looks = words[LOOKS]
        fill("hello")
        idx = memory.u16[rig.vring.layout.used_idx >> 1]
        if waker.parse(waker_name).needs_private_memory:
            breaks = rig.breaks
            # Outside the Guest: a Launcher that took the news would make the stale copy look like news.
            rig.wait_until(lambda: words[LOOKS] > looks, "the doorbell rang and the Waker did not look")
            rig.linger()
            _expect(rig.breaks == breaks, "a forked Waker saw the ring: its memory is not private")
            seen = words[LOOKED_IDX]
            _expect(words[LOOKS] > looks and seen != idx, "a forked Waker is not stale: its memory is not private")
            raise ExpectedlyStale(f"stale: the doorbell rang, the Waker saw used.idx {seen}, memory has {idx}")
        rig.expect_break("the ring has news")
        _expect(guest.reap() == (0, 5), "the buffer did not come back with 5 bytes")
        _expect(bytes(memory.view(_RING_MEMORY, 5)) == b"hello", "the buffer does not hold what the peer wrote")
        rig.expect_quiet("the news was taken")
        _expect(counted[0] == 1, f"the Guest counted {counted[0]} interrupts instead of 1")

        fill("two")
        fill("three")
        rig.expect_break("the ring has news, twice over")
        _expect(rig.vring.taken == 3, f"{rig.vring.taken} of 3 used buffers were announced")
        counted.release()
        return f"filled by another process; the Waker saw used.idx {words[LOOKED_IDX]}, the Guest was interrupted"


def w8_reuse(waker_name: str, engine: str) -> str:
    """Closing an fd, or its number coming back as another file, wakes nobody wrongly."""
    with open_rig(waker_name, engine) as rig:
        loop, pulse, table = rig.machine.loop, rig.pulse, rig.machine.table
        old = pulse.open()
        table.adopt(pulse, [old])
        loop.watch([old])
        loop.unwatch([old])
        new = pulse.replace(old)
        table.adopt(pulse, [new])
        pulse.ring(0)
        rig.expect_break("a neighbour became ready")  # so that the strategy looks again, at what it has now
        pulse.ring_source(new)
        rig.expect_quiet("another file came under a number that is not watched")
        loop.watch([new])
        rig.expect_break("the other file is watched")

        # Closed without a word while it is watched and ready: a mistake of a device must not hurt the others.
        pulse.ring_source(new)
        pulse.close_source(new)
        spurious = rig.machine.page.words[SPURIOUS]
        for turn in range(3):
            pulse.ring(0)
            while pulse.rung < 3 + turn:
                rig.expect_break("a neighbour of a closed fd became ready")
        spurious = rig.machine.page.words[SPURIOUS] - spurious
        _expect(spurious <= 1, f"a closed fd broke the Guest {spurious} times for nothing")
        rig.expect_quiet("the closed fd is forgotten")
        return "a reused number woke nobody; a file closed while watched left its neighbours alone"


def w9_exit(waker_name: str, engine: str) -> str:
    """When the Launcher dies (SIGKILL too) the Waker is gone within 100 ms, and nothing is left."""
    before = names_left()
    took_ms = []
    for _ in range(3):  # the best of three: a busy machine may be late to run a process that must exit
        took_s = kill_a_launcher(waker_name, engine)
        took_ms.append(took_s * 1e3)
        if took_s <= GONE_WITHIN_S:
            break
    _expect(min(took_ms) <= GONE_WITHIN_S * 1e3, f"the Waker outlived its Launcher by {min(took_ms):.0f} ms")
    # Another program's name may come and go; one of ours would stay.
    end = monotonic() + GONE_WITHIN_S
    while (left := names_left() - before) and monotonic() < end:
        pass
    _expect(not left, f"left behind: {sorted(left)}")
    return f"all gone {min(took_ms):.1f} ms after SIGKILL, nothing left"


def w10_death(waker_name: str, engine: str) -> str:
    """When the Waker dies (SIGKILL too) the Launcher notices, starts another, and no input is lost."""
    if waker.parse(waker_name).place == "inline":
        raise RuleSkipped("nobody waits, so there is nobody to die")
    with open_rig(waker_name, engine) as rig:
        wake = rig.machine.loop.waker
        for turn in range(DEATHS):
            wake.kill()
            if turn % 2:
                rig.pulse.ring(turn % 2)  # while nobody watches
            rig.expect_break("the Waker died")  # else the Guest would halt for ever
            if not turn % 2:
                rig.pulse.ring(turn % 2)
            while rig.pulse.rung <= turn:
                rig.expect_break(f"ring {turn}, after death {turn + 1}")
        rig.pulse.ring(0)
        held = rig.leave("a ring before the last death")
        wake.kill()  # while it is held
        wake.release(held)
        while rig.pulse.rung <= DEATHS:
            rig.expect_break("a ring that was not served before its Waker died")
        replaced = wake.stats().replaced
        _expect(wake.alive(), "the last Waker is not alive")
        _expect(0 < replaced <= DEATHS + 1, f"{replaced} Wakers were started for {DEATHS + 1} deaths")
        return f"{DEATHS + 1} deaths, {replaced} replaced, {rig.pulse.rung} of {DEATHS + 1} rings served"


def w11_many(waker_name: str, engine: str) -> str:
    """10,000 fds; what cannot take them refuses the one it cannot in one clear sentence, and goes on."""
    with many_fds(MANY), open_rig(waker_name, engine) as rig:
        loop, pulse = rig.machine.loop, rig.pulse
        refusal, batch = "", 2500
        while len(pulse.sources) < MANY and not refusal:
            sources = open_some(pulse, batch)
            rig.machine.table.adopt(pulse, sources)
            try:
                loop.watch(sources)
            except SourceRefused as error:
                for source in sources:
                    pulse.close_source(source)
                # Fewer and fewer at a time from here on, to see which one it is.
                refusal, batch = ("", batch // 8 or 1) if batch > 1 else (str(error), 1)
                continue
            if len(sources) < batch:
                break  # this process has as many files open as it may
        last = len(pulse.sources) - 1
        for at in (last, 0, last // 2):
            pulse.ring(at)
            rig.expect_break(f"source {at} of {last + 1} became ready")
        _expect(pulse.rung == 3, f"{pulse.rung} of 3 rings were served")
        if not refusal:
            return f"{len(pulse.sources)} fds watched, the first, the middle and the last of them wake"
        _expect(
            "cannot watch fd" in refusal and "use another strategy" in refusal,
            f"refused without saying which fd, why, and what to do: {refusal}",
        )
        highest = max(last, pulse.sources[last].fd)  # the Waker's own numbers are not known here
        _expect(highest > FD_SETSIZE - 64, f"refused already after {last + 1}: {refusal}")
        return f"{len(pulse.sources)} fds watched, the next refused: {refusal}"


def w12_busy(waker_name: str, engine: str) -> str:
    """A Guest that never leaves by itself is still broken out."""
    with open_rig(waker_name, engine, guest="spin") as rig:
        for turn in range(10):
            if turn % 5:
                rig.pulse.ring(turn % 2)
            else:
                rig.ring_later(turn % 2)
            rig.expect_break(f"ring {turn}, with a Guest that computes")
        _expect(rig.pulse.rung == 10, f"{rig.pulse.rung} of 10 rings were served")
        return "10 rings, 10 served, the Guest computing all the time"


RULES: dict[str, Rule] = {
    "W1": w1_wakes,
    "W2": w2_level,
    "W3": w3_quiet,
    "W4": w4_rewatch,
    "W5": w5_held,
    "W6": w6_early,
    "W7": w7_vring,
    "W8": w8_reuse,
    "W9": w9_exit,
    "W10": w10_death,
    "W11": w11_many,
    "W12": w12_busy,
}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuleBroken(otherwise)
