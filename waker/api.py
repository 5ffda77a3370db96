"""The seams of the Waker: what can be watched, and the one seam to add a new idea."""

from __future__ import annotations

from typing import Protocol


class Source:
    """An open file that can be watched: a plain fd, or (with `ring`) the doorbell of a vring fd.

    One object stands for one opened file, and is told from others by identity: a number that comes back as
    another file is another Source.
    """

    __slots__ = ("fd", "name", "ring")

    def __init__(self, fd: int, name: str, ring: RingView | None = None) -> None:
        self.fd = fd
        self.name = name
        self.ring = ring


class RingView:
    """Placeholder, replaced below."""


class Strategy(Protocol):
    """How readiness is learnt."""
