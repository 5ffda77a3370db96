"""The gate that the documentation gives away: it must ask for what there is."""

from __future__ import annotations

import shlex
from pathlib import Path

from launcher.cli import make_parser

ROOT = Path(__file__).resolve().parents[2]
GATE = (ROOT / "docs/gate.yml").read_text()


def test_the_example_is_indented_as_yaml_wants_it() -> None:
    assert "\t" not in GATE
    for line in GATE.splitlines():
        assert (len(line) - len(line.lstrip(" "))) % 2 == 0, line


def test_its_command_is_one_that_the_launcher_takes() -> None:
    lines = [line.strip() for line in GATE.splitlines() if "scripts/launcher duel" in line]
    assert len(lines) == 1
    command = lines[0].partition(" || ")[0].replace("${{ github.base_ref }}", "main")
    program, *args = shlex.split(command)
    assert (ROOT / program).is_file()
    parsed = make_parser().parse_args(args)
    assert (parsed.against, parsed.output, parsed.wakers) == ("origin/main", "duel.jsonl", [])


def test_the_revision_that_it_compares_with_is_fetched() -> None:
    assert "fetch-depth: 0" in GATE


def test_only_cannot_tell_is_let_through() -> None:
    assert 'if [ "$code" = 3 ]; then exit 0; fi' in GATE
    assert 'exit "$code"' in GATE
