"""Which arms a bench has: the Wakers that patterns name, on each engine, with each combination of settings.

What cannot be an arm is left out with the reason; what there is not is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

import waker
from launcher import engines
from launcher.bench.measure import yardstick
from launcher.bench.measure.cases import Case, Value
from launcher.bench.measure.placement import placement
from launcher.bench.measure.session import ArmPlan, is_yardstick
from launcher.bench.store.records import setting
from shared.errors import UsageError


@dataclass(slots=True)
class Chosen:
    """The arms of a session, and what is not among them, with the reason."""

    arms: list[ArmPlan] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    is_vain: bool = False
    """Whether nothing that was asked for is among them: what Wakers are compared with is no session by itself."""


def choose_arms(
    case: Case, patterns: Sequence[str], engine_names: Sequence[str], settings: Mapping[str, Sequence[Value]]
) -> Chosen:
    """Return the arms that patterns of Wakers' names ask for, on each engine, with each combination of settings.

    Without patterns: all Wakers, what the case has of the yardstick, and the harness alone. Raises `UsageError` for a
    pattern that fits nothing, or a Waker named in full that does not fit the case.
    """
    chosen = Chosen()
    wanted = _expand(case, patterns)
    combinations = [dict(zip(settings, values, strict=True)) for values in product(*settings.values())]
    varied = {name for name, values in settings.items() if len(values) > 1}
    for engine_name in engine_names:
        for name in wanted:
            if name.startswith(yardstick.PREFIX):
                continue
            label = f"{engine_name}:{name}" if len(engine_names) > 1 else name
            if why_not := case.why_not(name, engine_name):
                chosen.skipped[label] = why_not
                continue
            _add(chosen, case, label, engine_name, name, combinations, varied)
    c_names = [name for name in wanted if name.startswith(yardstick.PREFIX)]
    why_none = {name: reason for name in c_names if (reason := _why_not_in_c(name, engine_names))}
    is_for_all = len(why_none) == len(c_names) and len(set(why_none.values())) == 1
    chosen.skipped |= {"the yardstick in C": why_none[c_names[0]]} if is_for_all else why_none
    for name in c_names:
        if name not in why_none:
            _add(chosen, case, name, yardstick.ENGINE, name, combinations, varied)
    wants_yardsticks = bool(patterns) and not any(_matching(waker.names(), one) for one in patterns)
    chosen.is_vain = not any(wants_yardsticks or not arm.is_yardstick for arm in chosen.arms)
    return chosen


def parse_settings(case: Case, texts: Sequence[str]) -> dict[str, list[Value]]:
    """Return the values of each parameter that `NAME=VALUE[,VALUE…]` sets; raise `UsageError` for what it cannot be."""
    settings: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"setting '{text}' is not NAME=VALUE; case {case.name} has {', '.join(case.parameters)}")
        if name in settings:
            raise UsageError(f"parameter '{name}' is set twice; to vary it, say {name}=VALUE,VALUE")
        settings[name] = list(dict.fromkeys(case.parse(name, value) for value in values.split(",")))
    for pin in settings.get("pin", []):
        placement(str(pin), is_busy=False)  # say now that there are not enough processors
    return settings


def _add(
    chosen: Chosen,
    case: Case,
    label: str,
    engine_name: str,
    name: str,
    combinations: Sequence[dict[str, Value]],
    varied: set[str],
) -> None:
    for combination in combinations:
        own = ",".join(setting(key, value) for key, value in combination.items() if key in varied)
        arm = f"{label}@{own}" if own else label  # as a duel takes it
        chosen.arms.append(ArmPlan(arm, engine_name, name, {**case.defaults(), **combination}))


def _expand(case: Case, patterns: Sequence[str]) -> list[str]:
    """Return the names that the patterns fit, each once, and what the case has to compare them with."""
    known = [*waker.names(), *case.yardsticks]
    if not patterns:
        return [*case.wakers(), *case.yardsticks]
    names: dict[str, None] = {}
    for pattern in patterns:
        _, plus, options = pattern.partition("+")
        found = _matching(known, pattern)
        if not found:
            if not is_yardstick(pattern):
                waker.parse(pattern)  # says what there is
            raise UsageError(f"'{pattern}' is nothing that case {case.name} has; it has {', '.join(known)}")
        wakers = [name for name in found if not is_yardstick(name)]
        if wakers:
            _expect_options(wakers, f"{plus}{options}")
        for name in found:
            names[name if is_yardstick(name) else f"{name}{plus}{options}"] = None
    return list(dict.fromkeys([*names, *case.yardsticks]))


def _expect_options(wakers: Sequence[str], options: str) -> None:
    """Raise `UsageError` for options that none of these can have; one that cannot is left out, with the reason."""
    refusals = []
    for name in wakers:
        try:
            waker.parse(name + options)
        except UsageError as refusal:
            refusals.append(refusal)
    if len(refusals) == len(wakers):
        raise refusals[0]


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that fit a pattern, whatever options stand behind it."""
    return [name for name in names if fnmatchcase(name, pattern.partition("+")[0])]


def _why_not_in_c(name: str, engine_names: Sequence[str]) -> str | None:
    if name.startswith("c:kvm_"):
        if "kvm" not in engine_names:
            return "with a Guest that computes it needs engine kvm"
        if reason := engines.get("kvm").why_not():
            return reason
    return yardstick.why_not(name.removeprefix(yardstick.PREFIX))


def choose_engines(case: Case, wanted: Sequence[str]) -> tuple[list[str], str]:
    """Return the engines and why these; raise what `engines.choose` raises."""
    choices = [engines.choose(name, case.guest) for name in wanted or [engines.AUTO]]
    names = list(dict.fromkeys(choice.engine.name for choice in choices))
    return names, choices[0].reason if len(names) == 1 else "asked for"
