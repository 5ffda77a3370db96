"""Stores that others see late, or between which something happens: what a processor may do, made certain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StoreBuffer:
    """Words as one processor sees them: its stores wait, and only a fence, or `drain`, lets others see them."""

    def __init__(self, words: Any) -> None:
        self._words = words
        self._stores: list[tuple[int, int]] = []

    def __getitem__(self, at: int) -> int:
        for address, word in reversed(self._stores):
            if address == at:
                return word
        now: int = self._words[at]
        return now

    def __setitem__(self, at: int, word: int) -> None:
        self._stores.append((at, word))

    def drain(self) -> None:
        for at, word in self._stores:
            self._words[at] = word
        self._stores.clear()


class HappeningAfter:
    """Words, or bytes, with something that happens after each store into one of them."""

    def __init__(self, words: Any, happen: Callable[[], object]) -> None:
        self._words, self._happen = words, happen

    def __getitem__(self, at: int) -> int:
        word: int = self._words[at]
        return word

    def __setitem__(self, at: int, word: int) -> None:
        self._words[at] = word
        self._happen()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._words, name)
