"""What the program says to call next is called, as far as it goes without measuring anything."""

from __future__ import annotations

import shlex

import pytest

from launcher import cli
from launcher.bench.duels import duel_command
from launcher.bench.duels.duel_command import Request
from launcher.bench.duels.sides import Side
from launcher.bench.measure.cases import Case


def begun(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Side, Side]:
    """Return the sides of the duel that a command begins; the test fails where it is refused."""
    sides: list[tuple[Side, Side]] = []

    def measure(_request: Request, _case: Case, base: Side, head: Side, _began_s: float) -> int:
        sides.append((base, head))
        return 0

    monkeypatch.setattr(duel_command, "_measure", measure)
    program, *words = shlex.split(command)
    assert program == "launcher"
    assert cli.main(words) == 0, command
    return sides[0]
