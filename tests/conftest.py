"""What many tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from shared.breaker import KICK_SIGNAL
from shared.memory import GuestMemory

# --hypothesis-profile=many: what the state machines try by default is kept short.
settings.register_profile("many", max_examples=10_000)


@pytest.fixture(autouse=True)
def _no_kick_stays_blocked() -> Iterator[None]:
    """Let the kick signal through again: sigio goes on blocking it once a file was closed under it."""
    yield
    if KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        signal.sigtimedwait({KICK_SIGNAL}, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Give 128 KiB of shared Guest memory."""
    with GuestMemory.create(0x20000) as memory:
        yield memory
