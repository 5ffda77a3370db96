"""What stands in the head of receipts for a command of its own: the plan of a duel, the arms of a calibration.

A file may be anybody's, and what is in it is printed, computed with and run: each field is there and of its type, or
the file is refused by the field's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.bench.store.receipts import Receipts, ReceiptsError


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
