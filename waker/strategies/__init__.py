"""How readiness is learnt: one file, one strategy; the file's name is its name on the command line.

There is no registry: a strategy exists because its file does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from shared.breaker import ExitFlag
from waker.api import InlineStrategy, Strategy


def strategy_names(form: str = "Strategy") -> list[str]:
    """Return the names of all strategies, in alphabetical order, that have the class `form`: Strategy or Inline."""
    return [name for name in _file_names() if _has(name, form)]


def is_strategy(name: str) -> bool:
    """Whether there is such a strategy that waits; a Waker process asks, and loads no other."""
    return name in _file_names() and _has(name, "Strategy")


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


def make_inline(name: str) -> Callable[[ExitFlag], InlineStrategy]:
    """Return what makes the inline form of a strategy, in the vCPU's thread."""
    make: Callable[[ExitFlag], InlineStrategy] = import_module(f"waker.strategies.{name}").Inline
    return make


def _file_names() -> list[str]:
    files = os.listdir(__path__[0])  # noqa: PTH208 - pathlib is 2 of a Waker process' 30 ms
    return sorted(name.removesuffix(".py") for name in files if name.endswith(".py") and name[0] != "_")


def _has(name: str, form: str) -> bool:
    return hasattr(import_module(f"waker.strategies.{name}"), form)
