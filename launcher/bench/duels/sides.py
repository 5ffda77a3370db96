"""The sides of a duel: which Waker, on which engine, with what set for it, out of which tree.

    process/select                           a Waker, all else as it comes
    process/select@idle_us=1000,pin=apart    the same with parameters of the case
    process/select@engine=python             on another engine

What follows an @ and has no = in it belongs to the Waker's own name (`+drop=10000@9990`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import waker
from launcher import engines
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import DIRECT, Case, Value
from launcher.bench.measure.placement import placement
from launcher.bench.measure.session import ArmPlan
from launcher.bench.measure.spec import ROOT
from shared.errors import CannotRunError, UsageError

ENGINE = "engine"
"""Is set like a parameter, and is none of the case's."""


@dataclass(frozen=True, slots=True)
class Side(ArmPlan):
    """One arm of a duel; `tree` is the code that is measured."""

    tree: Path = ROOT

    def again(self) -> Side:
        """Return the same under another name: the control arm."""
        return replace(self, name=f"{self.name}'")

    def is_same_as(self, other: Side) -> bool:
        """Whether the two differ in nothing but their names."""
        return replace(self, name=other.name) == other


def parse(case: Case, text: str, engine: str, settings: Sequence[str] = (), own: Sequence[str] = ()) -> Side:
    """Return the side that `text` names; `settings` are for both sides, `own` for this one, which win.

    Raises `UsageError` for what there is not, `CannotRunError` for a Waker that cannot run the case here.
    """
    name, of_text = _split(text)
    of_side = [*of_text, *own]
    values = {"pin": case.pin_of_duels(), **_values(case, settings), **_values(case, of_side)}
    engine = str(values.pop(ENGINE, engine))
    placement(str(values["pin"]), is_busy=False)  # say now that there are not enough processors
    label = "@".join([name, ",".join(of_side)]) if of_side else name
    parameters = {**case.defaults(), **values}
    if name.startswith(yardstick.PREFIX):
        return Side(label, yardstick.ENGINE, _yardstick(case, name), parameters)
    if name != DIRECT:
        waker.parse(name)  # says what there is
    chosen = engines.choose(engine, case.guest).engine.name
    if reason := case.why_not(name, chosen):
        raise CannotRunError(f"{name} cannot run case {case.name} on engine {chosen} here: {reason}")
    return Side(label, chosen, name, parameters)


def _split(text: str) -> tuple[str, list[str]]:
    """Take apart a Waker's name and what is set after it."""
    name, *rest = text.split("@")
    while rest and "=" not in rest[0]:
        name = f"{name}@{rest.pop(0)}"
    return name, [setting for part in rest for setting in part.split(",")]


def _values(case: Case, settings: Sequence[str]) -> dict[str, Value]:
    """Return what is set, each parameter once: of two values one would be left unheeded."""
    values: dict[str, Value] = {}
    for setting in settings:
        name, value = _set(case, setting)
        if name in values:
            raise UsageError(f"parameter '{name}' is set twice, to {values[name]} and to {value}: leave one out")
        values[name] = value
    return values


def _set(case: Case, text: str) -> tuple[str, Value]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"setting '{text}' is not NAME=VALUE; case {case.name} has {', '.join(case.parameters)}")
    return (name, value) if name == ENGINE else (name, case.parse(name, value))


def _yardstick(case: Case, name: str) -> str:
    if name not in case.yardsticks:
        known = ", ".join(one for one in case.yardsticks if one.startswith(yardstick.PREFIX)) or "none"
        raise UsageError(f"'{name}' is no yardstick of case {case.name}; it has {known}")
    yardstick.build(name.removeprefix(yardstick.PREFIX))
    return name
