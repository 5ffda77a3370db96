"""The head of receipts: made for the run that begins now, and read again.

A duel keeps its plan in it, a calibration its arms. A file may be anybody's, and what is in it is printed, computed
with and run: each field is there and of its type, or the file is refused by the field's name.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from launcher.bench.measure import provenance
from launcher.bench.store.receipts import Receipts, ReceiptsError, Run


def run_of(kind: str, seed: int, program: str = "launcher", **held: object) -> Run:
    """Return the head of a run of this kind that begins now, by this command line; `held` is what it keeps besides."""
    command, started = shlex.join([program, *sys.argv[1:]]), datetime.now(UTC).isoformat(timespec="seconds")
    return Run(command, kind, {**provenance.host(seed), **held}, started)


def fields_of(stored: Receipts, kind: str, types: Mapping[str, type], what: str) -> dict[str, Any]:
    """Return what the head holds under `kind`; raise `ReceiptsError` for other receipts (`what` says what is wanted).

    Texts are printable, also where they are in a table.
    """
    held = stored.run.host.get(kind)
    if stored.run.kind != kind or not isinstance(held, dict):
        raise ReceiptsError(f"{stored.path} holds a {stored.run.kind}, not {what}")
    for name, type_ in types.items():
        value = held.get(name)
        texts = [*value, *value.values()] if isinstance(value, dict) else [value]
        is_plain = all(text.isprintable() for text in texts if isinstance(text, str))
        if type(value) is not type_ or not is_plain:
            raise ReceiptsError(f"{stored.path}: '{name}' of its {kind} is {value!r:.40}, which it cannot be")
    return {name: held[name] for name in types}
