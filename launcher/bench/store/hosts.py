"""Whether two runs were measured on the same machine in the same state; what differs, by name.

Some differences make a comparison of times meaningless (another processor, another hypervisor): it is refused. Others
make it doubtful (another kernel, another governor): it is made, with a warning each. What only one of the two knows
is doubtful as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECISIVE = ("architecture", "cpu", "cpus", "virtualisation", "nested")
DOUBTFUL = ("machine", "kernel", "governor", "quota", "python", "gil", "environment", "placement", "versions")

_MAX_STEAL_PERCENT = 2.0
_MAX_LOAD_APART = 1.0


def decisive_differences(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """Return what forbids a comparison, a phrase each."""
    return [_differs(key, base, head) for key in DECISIVE if key in base and key in head and base[key] != head[key]]


def doubts(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """Return what makes a comparison doubtful, a phrase each; decisive differences are not among them."""
    found = [_differs(key, base, head) for key in DOUBTFUL if key in base and key in head and base[key] != head[key]]
    missing = [key for key in (*DECISIVE, *DOUBTFUL) if (key in base) != (key in head)]
    if missing:
        found.append(f"only one of them says its {', '.join(missing)}")
    if unknown := [key for key in DECISIVE if key not in base and key not in head]:
        found.append(f"neither says its {', '.join(unknown)}")
    found += [
        f"{name} had {host['steal_percent']:.1f} % of its time stolen"
        for name, host in (("base", base), ("head", head))
        if _number(host.get("steal_percent")) > _MAX_STEAL_PERCENT
    ]
    loads = _number(base.get("load")), _number(head.get("load"))
    if abs(loads[0] - loads[1]) > _MAX_LOAD_APART:
        found.append(f"the load was {loads[0]:.1f} and {loads[1]:.1f}")
    return found


def _differs(key: str, base: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    one, other = base[key], head[key]
    if isinstance(one, dict) and isinstance(other, dict):
        apart = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        return "; ".join(f"{key} of {name}: {_shown(one.get(name))} and {_shown(other.get(name))}" for name in apart)
    return f"{key}: {_shown(one)} and {_shown(other)}"


def _shown(value: object) -> str:
    """Return it on one line that a terminal can be shown, not too long."""
    return ascii(value) if isinstance(value, dict | list) or not str(value).isprintable() else str(value)[:80]


def _number(value: object) -> float:
    """Return a number; 0 for what is none. A load may be given as the three of getloadavg()."""
    first = value[0] if isinstance(value, list) and value else value
    return float(first) if isinstance(first, int | float) and abs(first) < 1e300 else 0.0
