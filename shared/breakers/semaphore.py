"""A POSIX semaphore that a halted vCPU waits for: a count in shared memory, and the kernel only when somebody sleeps.

A named one (posix_ipc) is a file in /dev/shm that a Launcher which is killed before it could unlink it leaves behind:
until its Waker has opened it by name, or, inside sem_open(3) itself, under the temporary name that glibc gives it
first. A Waker that is replaced later would need a new name, with the same window. But a name only serves to find a
`sem_t` in a shared mapping, and the two sides share one already. So this is an unnamed semaphore (sem_init with
`pshared`) in the control page: no name, hence nothing to leave at any moment, nothing to open, no module to import
in the Waker, and a Waker that comes later finds it where the first one did.
"""

from __future__ import annotations

from typing import ClassVar

from shared.breaker import ExitFlag, KickedInPage
from shared.linux import Semaphore
from shared.page import Page


class SemaphoreBreaker(KickedInPage):
    """What is posted stays until it is waited for."""

    kind: ClassVar[str] = "semaphore"

    def __init__(self, page: Page) -> None:
        super().__init__(page)
        self._semaphore = Semaphore(page.semaphore_address())

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> SemaphoreBreaker:
        """Make one for a vCPU of this process: the count begins at 0, whatever an earlier one left."""
        breaker = cls(page)
        breaker._semaphore.begin()
        return breaker

    def break_out(self) -> None:
        self._set()
        self._semaphore.post()

    def wait(self) -> None:
        # One wait takes all that has gathered: a Guest that computes takes none, and a count of a thousand would end
        # its next thousand sleeps. The flags that came with them are looked at after this.
        if self._semaphore.wait():
            while self._semaphore.try_wait():
                pass
