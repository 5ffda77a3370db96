"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from shared.memory import GuestMemory

# --hypothesis-profile=many: what the state machines try by default is kept short.
settings.register_profile("many", max_examples=10_000)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Give 128 KiB of shared Guest memory."""
    with GuestMemory.create(0x20000) as memory:
        yield memory
