"""Computes for ever and never leaves by itself: only a break gets its Launcher back."""

from __future__ import annotations

from launcher.engines.python import COMPUTE, Cpu, GuestCode


def run(_cpu: Cpu) -> GuestCode:
    """Compute for ever."""
    state = 1
    while True:
        state = state * 1664525 + 1013904223 & 0xFFFFFFFF
        yield COMPUTE
