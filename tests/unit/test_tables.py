"""Tables: what a narrow terminal does without."""

from __future__ import annotations

import pytest

from launcher.tables import Column, console, print_columns


@pytest.mark.parametrize(("spare", "gone"), [("n", "n, n/wake"), ("notes", "notes"), ("no", "no us"), ("late", None)])
def test_a_column_goes_by_its_whole_name(spare: str, gone: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column(heading, ["x" * 30]) for heading in ("n", "notes", "n/wake", "no us")]
    out = console()
    out.width = 120
    print_columns(out, columns, spare=[spare])
    shown = capsys.readouterr().out.splitlines()
    assert shown[2:] == ([f"too narrow for {gone}"] if gone else [])
