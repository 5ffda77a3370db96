"""How readiness is learnt: one file, one strategy; the file's name is its name on the command line.

There is no registry: a strategy exists because its file does.
"""

from __future__ import annotations

import os
from importlib import import_module

from waker.api import Strategy


def strategy_names() -> list[str]:
    """Return the names of all strategies, in alphabetical order."""
    files = os.listdir(__path__[0])  # noqa: PTH208 - pathlib is 2 of a Waker process' 30 ms
    return sorted(name.removesuffix(".py") for name in files if name.endswith(".py") and name[0] != "_")


def missing(name: str) -> str | None:
    """Return why this strategy cannot run here, or None when it can."""
    reason: str | None = import_module(f"waker.strategies.{name}").missing()
    return reason


def strategy_description(name: str) -> str:
    """Return what this strategy is: the first line of its file."""
    text = import_module(f"waker.strategies.{name}").__doc__ or ""
    return text.split("\n", 1)[0]


def make_strategy(name: str) -> Strategy:
    """Make a strategy; the thread that calls this is the one that may use it."""
    strategy: Strategy = import_module(f"waker.strategies.{name}").Strategy()
    return strategy
