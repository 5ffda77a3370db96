"""A futex on the break word itself: a halted vCPU sleeps on the flag, and nothing has to be opened or passed.

FUTEX_WAIT puts the caller to sleep *if the word is still 0*, and the kernel looks at it under the lock that
FUTEX_WAKE takes. So flag and kick are one: a break that came before the sleep is found by the kernel's own look, and
there is no kick that could be missed or left over. A second word for the kick would need a fence between taking it
and looking at the flag.

The futex is not a private one: the word lies in a shared mapping, and the kernel knows it by page and offset, in
whatever process. FUTEX_WAKE is told an address of the peer's own, so a Waker needs no right beyond its mapping. A
futex is 32 bits wide; the break word is 64, little-endian, and holds 0 or 1, so its first half is the word.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar

from shared.breaker import ExitFlag, KickedInPage
from shared.linux import futex_wait, futex_wake
from shared.page import Page


class FutexBreaker(KickedInPage):
    """The flag is the kick: it stays until it is cleared."""

    kind: ClassVar[str] = "futex"

    def __init__(self, page: Page) -> None:
        super().__init__(page)
        _, self._address = page.break_byte()

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> FutexBreaker:
        """Make one for a vCPU of this process."""
        return cls(page)

    def break_out(self) -> None:
        self._set()
        futex_wake(self._address)

    def wait(self) -> None:
        # EAGAIN: the flag was set already. EINTR: a signal's handler has run, and the caller looks at the flag again.
        with contextlib.suppress(BlockingIOError, InterruptedError):
            futex_wait(self._address, 0)
