"""Makes a running Guest stop and look. The front door: the Launcher knows nothing behind it."""

from __future__ import annotations

from waker.api import Source

__all__ = ["Source"]
