"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.memory import GuestMemory


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Give 128 KiB of shared Guest memory."""
    with GuestMemory.create(0x20000) as memory:
        yield memory
