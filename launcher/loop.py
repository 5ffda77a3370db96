"""START READING HERE: run the Guest; when it is broken out, service its devices; release the Waker; run it again.

This is lguest's run_guest() of 2007. The Guest is inside `vcpu.run()` until it wants something, or until the Waker
breaks it out because a device's file became ready. The order around a break is the whole art:

    vcpu.run() -> Broken
    breaker.clear()         take the break before looking: what becomes ready later breaks again
    held = waker.held()     the break that we are about to answer
    service                 every source that is ready, seen with our own eyes
    waker.release(held)     let the Waker look again: until now it was held, so breaks never pile up

The other half is waker/serve.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.api import Broken, Died, Exit, Notify, Restart, Shutdown, Vcpu
from launcher.devices.table import DeviceTable
from launcher.ready import ReadySet
from launcher.stop import StopRequests
from shared.page import NOTIFIES, SERVICED, SPURIOUS, TAKEN, Page
from shared.trace import Stage, Trace
from waker import Source, Waker


@dataclass(slots=True)
class Loop:
    """The parts that meet here; machine.py opens and closes them. The vCPU's thread calls it."""

    vcpu: Vcpu
    table: DeviceTable
    waker: Waker
    ready: ReadySet
    page: Page
    trace: Trace
    stop: StopRequests | None = None

    def run(self) -> Shutdown | Restart | Died:
        """Run the Guest until it is done, wants to begin anew, or is dead.

        What else can end it is raised: `LabError` and its kin.
        """
        while True:
            exit_ = self.run_once()
            if isinstance(exit_, Shutdown | Restart | Died):
                return exit_

    def run_once(self) -> Exit:
        """Run the Guest until it leaves once, and do what that asks for."""
        exit_ = self.vcpu.run()
        if isinstance(exit_, Broken):
            if self.trace.is_on:
                self.trace.stamp(Stage.LEFT)
            self.vcpu.breaker().clear()
            held = self.waker.held()
            self.page.words[TAKEN] += 1
            self._service()
            self.waker.release(held)
        elif isinstance(exit_, Notify):
            self.page.words[NOTIFIES] += 1
            self.watch(self.table.notify(exit_.addr))
            self.waker.nudge()
        return exit_

    def watch(self, sources: Sequence[Source]) -> None:
        """Have these watched; raise `SourceRefused` when the Waker cannot."""
        if sources:
            if displaced := self.ready.displaced_by(sources):
                self.unwatch(displaced)  # closed without a word: a Waker that has a copy would break for it for ever
            self.waker.watch(*sources)
            for source in sources:
                self.ready.add(source)

    def unwatch(self, sources: Sequence[Source]) -> None:
        """Have these watched no longer; afterwards they may be closed."""
        for source in sources:
            self.ready.remove(source)
        self.waker.unwatch(*sources)

    def _service(self) -> None:
        served = 0
        for source in self.ready.ready():
            # Lost, or unwatched while another was served: its number may be another file's, from which nobody is to
            # read. (0.4 us, of a wake-up's 6.)
            if self.ready.is_lost(source):
                self.unwatch([source])
                continue
            served += 1
            if self.stop is not None and source is self.stop.source:
                self.stop.take()
            elif not self.table.serve(source):
                self.unwatch([source])
        if served:
            self.page.words[SERVICED] += served
            if self.trace.is_on:
                self.trace.stamp(Stage.SERVICED)
        else:
            # A file that was closed while it was watched may still be open, and ready, in the Waker: it would
            # break the Guest for ever.
            self.page.words[SPURIOUS] += 1
            self.unwatch(self.ready.lost())
