"""What whoever measures and an arm agree on: what the arm is to be, and the signals between them."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
"""The tree that this is a part of."""

GIVE_UP = signal.SIGUSR2
"""Tells an arm that nobody believes in it any more."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks whoever measures to stop."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What the arm is to be: all plain values, so that it can be handed over as JSON."""

    device: str
    engine: str
    guest: str
    waker: str
    ledger: int
    fds: list[int]
    idle: int
    seed: int
    own: dict[str, Any]
    """What was set of the parameters that the case alone has."""
    memory_mib: int
    switch_us: int
    is_tracing: bool

    def to_json(self) -> str:
        """Return it as an argument."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})
