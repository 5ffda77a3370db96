"""Tables on standard output: a row stays a row, and a number is whole or not there.

A terminal may be too narrow, a pipe has no width at all, and whoever reads may have gone before the end.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from launcher.words import shown
from shared.errors import Interrupted, Unread, worst

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_NO_WIDTH = 100_000


class Column(NamedTuple):
    """A column: numbers are to the right, text is to the left."""

    heading: str
    cells: Sequence[str | Text]
    is_text: bool = False


def console() -> Console:
    """Return what prints on standard output, lines as long as they are; imports rich, and takes its time for it.

    Raises `BrokenPipeError` where nobody reads any more, as `print` does: by itself rich leaves the program, with exit
    code 1 and without a word, whatever there was still to be said.
    """
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return _Console(width=None if sys.stdout.isatty() else _NO_WIDTH, soft_wrap=True, highlight=False)


@contextmanager
def printed(code: int) -> Iterator[None]:
    """Print what was found, which has this exit code.

    Raises `Unread`, which keeps it, where that cannot be written; a ^C meanwhile hides nothing that is worse.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise Unread(code, error) from None
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted")
        stopped.exit_code = worst(code, stopped.exit_code)
        raise stopped from None


def print_columns(
    out: Console, columns: Sequence[Column], styles: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print a table, its rows in these styles; a narrow terminal does without the columns named in `spare`.

    The first is left out first; a name may have a unit, or a divisor, behind it. What is wider all the same, the
    terminal wraps: rich would cut digits off.
    """
    kept = list(columns)
    for name in spare:
        if _width(out, kept) <= out.width:
            break
        kept = [column for column in kept if not f"{column.heading} ".startswith((f"{name} ", f"{name}/"))]
    out.width = max(out.width, _width(out, kept))
    out.print(_table(kept, styles))
    if left_out := [column.heading for column in columns if column not in kept]:
        out.print(f"too narrow for {', '.join(left_out)}", style="dim", markup=False)


def _table(columns: Sequence[Column], styles: Sequence[str] = ()) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.heading, justify="left" if column.is_text else "right", no_wrap=True)
    for at, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        # Text: a stranger's receipts may hold what rich takes for markup.
        cells = [Text(shown(cell)) if isinstance(cell, str) else cell for cell in row]
        table.add_row(*cells, style=styles[at] if styles else None)
    return table


def _width(out: Console, columns: Sequence[Column]) -> int:
    return out.measure(_table(columns), options=out.options.update(width=_NO_WIDTH)).maximum
