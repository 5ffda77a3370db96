"""Whatever is done around a Waker, each ring is served once, none is lost, and nothing breaks the Guest for nothing.

The model knows which rings are unserved. After any sequence of watching, unwatching, ringing, closing, reusing a
number and killing the Waker, a Guest that is run once is broken out if something that is watched was rung, and then
all of it has been served. Where nothing was, a witness is rung, so that no run depends on time: then that one break,
and no other, was made. A witness alone would excuse a break that was made for nothing before it was rung. So first, as
a rule, the Waker is turned around: it obeys a change of something else, and its answer comes after all that it did
before. Then nobody may have been broken out.

Some breaks for nothing the design allows, each once, and the model counts them as owed until the Waker has turned
around; those for a file that was closed without a word, until the Launcher has found it out:

- an *unwatched* source may have been seen before, its break be under way or made already;
- a *death* breaks the Guest, so that it is noticed; that run may serve what the next Waker has seen by then;
- a child that is *forked anew*, for a file that was opened later, is not held as the one before was;
- a file that was *closed without a word* lives on in a Waker that has a copy: it breaks once, and is then found out.

`--hypothesis-profile=many` tries a hundred times as much. That the machine can see what it is for is tried in
test_waker_machine_can_fail.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import waker
from launcher import engines
from launcher.api import Broken
from launcher.check.rig import Rig, open_rig
from shared.page import BREAKS, SPURIOUS
from shared.vring import ring_doorbell
from tests.support.fds import no_new_fds, plugged_below
from tests.support.rescue import PATIENCE_S, rescue
from tests.support.until import until
from waker import Source
from waker.api import Place

MOST_SOURCES = 6
MOST_DEATHS = 4  # in one example: a new process takes its time, and many deaths in a row are given up

# One Waker for each place on kvm: what the engine adds is the vCPU, whose races tests/faults/races holds open.
ON_KVM = list({waker.parse(name).place: name for name in waker.names() if waker.why_not(name) is None}.values())
PAIRS = [pytest.param(name, "python", id=f"python-{name}") for name in waker.names()]
PAIRS += [
    pytest.param(f"{name}+{waker.RING_AWARE}", "python", id=f"python-{name}+{waker.RING_AWARE}")
    for name in ON_KVM
    if not waker.parse(name).needs_private_memory
]
PAIRS += [pytest.param(name, "kvm", id=f"kvm-{name}", marks=pytest.mark.kvm) for name in ON_KVM]


def settings_for(name: str) -> settings:
    """Return how much is tried: less where each example, and each death, starts a process."""
    examples = settings.default.max_examples // (12 if waker.parse(name).place == "process" else 6)
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


class WakerMachine(RuleBasedStateMachine):
    """A whole machine with an idle Guest, against how often each source was rung and not served."""

    waker_name = ""
    engine_name = ""
    patience_s = PATIENCE_S

    @initialize()
    def make(self) -> None:
        self.closing = ExitStack()
        self.rig: Rig = self.closing.enter_context(open_rig(self.waker_name, self.engine_name))
        self.loop, self.pulse, self.vring = self.rig.machine.loop, self.rig.pulse, self.rig.vring
        self.words = self.rig.machine.page.words
        self.place = waker.parse(self.waker_name).place
        self.witness = self.pulse.sources[0]
        self.unserved: dict[Source, int] = dict.fromkeys(self.pulse.sources, 0)
        self.watched = set(self.unserved)
        self.is_starved = False  # the one that has a room, and that only
        self.rung = self.news = self.published = 0
        self.deaths = 0
        self.changes = self.changes_before = 0  # of the Waker: since the last run, and before that one
        self.owed = 0  # breaks for nothing that may come
        self.lost: set[Source] = set()  # closed without a word
        self.spurious = self.words[SPURIOUS]
        self.held = self.released = self.words[BREAKS]
        wake = self.loop.waker
        self.release, wake.release = wake.release, self._release  # type: ignore[method-assign]
        self.start, wake._start_place = wake._start_place, self._start

    def _release(self, held: int) -> None:
        """Note which break is released: the next one may have been made by when the Guest has been run."""
        self.held = held
        self.release(held)

    def _start(self, sources: Sequence[tuple[int, Source]]) -> Place:
        """Count the Wakers that take the place of others, which may have made a break already."""
        self.changes += 1
        self.owed += 1
        return self.start(sources)

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        with self.closing:
            if self.is_starved:
                self.feed()
            for source in self._others():
                if source not in self.watched:
                    self._watch(source)
            self.run()
            self.run()
            assert not any(self.unserved.values())
            assert self.pulse.rung == self.rung
            assert self.vring.taken == self.published

    def _others(self) -> list[Source]:
        return [source for source in self.unserved if source is not self.witness]

    # What happens outside

    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        self._ring(data.draw(st.sampled_from(list(self.unserved))))

    def _ring(self, source: Source) -> None:
        self.pulse.ring_source(source)
        self.unserved[source] += 1
        self.rung += 1

    @precondition(lambda self: self.place != "fork")  # it sees a copy: W7
    @rule(count=st.integers(0, 3))
    def publish(self, count: int) -> None:
        """Use some buffers of the vring, or none, and ring its doorbell."""
        self.published += count
        self.news += count
        self.rig.machine.memory.u16[self.vring.fd.view.idx_addr >> 1] = self.published
        ring_doorbell(self.vring.fd.doorbell)

    @precondition(lambda self: waker.parse(self.waker_name).is_ring_aware and not self.is_starved)
    @rule()
    def starve(self) -> None:
        """Have no buffer left: what is ready for it may have made a break already."""
        self.owed += any(self.unserved[source] for source in self.watched if source.room)
        self.is_starved = True
        self.rig.starve()

    @precondition(lambda self: self.is_starved)
    @rule()
    def feed(self) -> None:
        self.is_starved = False
        self.rig.feed()

    def _breaking(self) -> list[Source]:
        """Return those that break the Guest when they are ready."""
        return [source for source in self.watched if not (self.is_starved and source.room)]

    @precondition(lambda self: self.place != "inline" and self.deaths < MOST_DEATHS)
    @rule()
    def kill(self) -> None:
        self.loop.waker.kill()
        until(lambda: not self.loop.waker.alive(), "the Waker was killed, and lives")
        self.deaths += 1
        self.changes += 1
        self.owed += 1

    # What the Launcher does

    @precondition(lambda self: len(self.unserved) < MOST_SOURCES)
    @rule(is_watched=st.booleans())
    def open(self, is_watched: bool) -> None:
        self._open(is_watched)

    def _open(self, is_watched: bool) -> Source:
        source = self.pulse.open()
        self.rig.machine.table.adopt(self.pulse, [source])
        self.unserved[source] = 0
        if is_watched:
            self._watch(source)
        return source

    @precondition(lambda self: set(self._others()) - self.watched)
    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        self._watch(data.draw(st.sampled_from([source for source in self._others() if source not in self.watched])))

    def _watch(self, source: Source) -> None:
        self.loop.watch([source])
        self.watched.add(source)

    @precondition(lambda self: len(self.watched) > 1)
    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        self._unwatch(data.draw(st.sampled_from([source for source in self._others() if source in self.watched])))

    def _unwatch(self, source: Source) -> None:
        if source in self.watched:
            self.owed += self.unserved[source] > 0
            self.loop.unwatch([source])
            self.watched.remove(source)

    @precondition(lambda self: self._others())
    @rule(data=st.data(), comes_back=st.booleans(), is_watched=st.booleans())
    def unwatch_and_close(self, data: st.DataObject, comes_back: bool, is_watched: bool) -> None:
        source = data.draw(st.sampled_from(self._others()))
        self._unwatch(source)
        self._close(source, comes_back, is_watched)

    @precondition(lambda self: self._others())
    @rule(data=st.data(), is_rung=st.booleans(), comes_back=st.booleans(), is_watched=st.booleans())
    def close_without_a_word(self, data: st.DataObject, is_rung: bool, comes_back: bool, is_watched: bool) -> None:
        """Close it, rung or not; what comes back under its number is rung too: whose ring is it?"""
        source = data.draw(st.sampled_from(self._others()))
        if is_rung:
            self._ring(source)
        if source in self.watched:
            self.watched.remove(source)
            self.lost.add(source)
            self.owed += 1
        new = self._close(source, comes_back, is_watched)
        if new is not None and is_rung:
            self._ring(new)

    def _close(self, source: Source, comes_back: bool, is_watched: bool) -> Source | None:
        self.rung -= self.unserved.pop(source)  # what was in it is gone
        with plugged_below(source.fd):
            self.pulse.close_source(source)
            return self._open(is_watched) if comes_back else None

    # What the Guest's runs bring

    @precondition(lambda self: not self._needs_a_break())
    @rule()
    def see_nothing_break(self) -> None:
        """Give the Waker time, and see that it breaks nobody, except for what is owed; that is settled then."""
        self._turn_around()
        while self.loop.vcpu.breaker().is_set():
            assert self.owed, "a break for nothing, of which nothing else tells"
            self._run_once()
            self._settle()
            self._turn_around()
        if not self.changes + self.changes_before:
            assert self.words[BREAKS] == self.released, "a break was counted, and not made"
        self.owed = sum(source in self.loop.ready for source in self.lost)

    def _turn_around(self) -> None:
        """Have the Waker obey changes. Past the Launcher, which may be what is sabotaged.

        Twice: what comes together with a command is looked at after the command.
        """
        for _ in range(2):
            self.loop.waker.unwatch(self.witness)
            self.loop.waker.watch(self.witness)

    @rule(looks_first=st.booleans())
    def run(self, looks_first: bool = True) -> None:
        """Run the Guest until it is broken out, and see that all was served by that."""
        if not self._needs_a_break():
            if looks_first:
                self.see_nothing_break()
            self._ring(self.witness)
        self._run_once()
        for source in self._breaking():
            self.unserved[source] = 0
        self.news = 0
        assert self.vring.taken == self.published, "news were not announced"
        assert self.pulse.rung == self.rung - sum(self.unserved.values())
        self._settle()

    @rule()
    def run_without_reading(self) -> None:
        """Leave what was rung unread: it must break the Guest again."""
        if not any(self.unserved[source] for source in self._breaking()):
            self._ring(self.witness)
        self.pulse.is_serving = False
        self._run_once()
        self.pulse.is_serving = True
        self.news = 0
        self._settle()

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """Take a break, and do this and that before serving it: no other may come."""
        # Drawn first: a draw that ends the example would leave the Waker held, and `teardown` without it.
        rung_meanwhile = data.draw(st.lists(st.sampled_from(list(self.unserved)), max_size=3))
        if not self._needs_a_break():
            self._ring(self.witness)
        held = self.rig.leave("something was rung")
        breaks = self.words[BREAKS]
        for source in rung_meanwhile:
            self._ring(source)
        for source in self.watched - {self.witness}:
            self.loop.unwatch([source])  # its answer says that the Waker has had time to misbehave
            self.loop.watch([source])
        if not self.changes + self.changes_before:
            assert self.words[BREAKS] == breaks, "a second break before the first was released"
            assert self.place == "inline" or not self.loop.vcpu.breaker().is_set(), "a break although it is held"
        self.loop._service()
        self.loop.waker.release(held)
        for source in self._breaking():
            self.unserved[source] = 0
        self.news = 0
        assert self.pulse.rung == self.rung - sum(self.unserved.values())
        self._settle()

    def _needs_a_break(self) -> bool:
        return bool(self.news) or any(self.unserved[source] for source in self._breaking())

    def _run_once(self) -> None:
        with rescue(self.loop.vcpu.breaker().break_out, self.patience_s) as was_needed:
            exit_ = self.loop.run_once()
        assert not was_needed.is_set(), "something was rung, and nobody broke the Guest"
        assert isinstance(exit_, Broken)

    def _settle(self) -> None:
        """See that no more breaks were made than there was reason for."""
        breaks, self.released = self.held - self.released, self.held
        changes, self.changes_before, self.changes = self.changes_before + self.changes, self.changes, 0
        assert breaks <= 1 + changes, f"{breaks} breaks before one was released"
        assert breaks == 1 or changes, "the Guest was broken out, but no Waker did it"
        self.owed -= self.words[SPURIOUS] - self.spurious
        self.spurious = self.words[SPURIOUS]
        assert self.owed >= 0, "a break for nothing"


@pytest.mark.usefixtures("kick_may_stay_blocked")
@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_no_ring_is_lost_and_none_is_served_twice(name: str, engine: str) -> None:
    reason = waker.why_not(name) or engines.get(engine).why_not()
    if reason is not None:
        pytest.skip(reason)
    machine = type("Machine", (WakerMachine,), {"waker_name": name, "engine_name": engine})
    with no_new_fds():
        run_state_machine_as_test(machine, settings=settings_for(name))
