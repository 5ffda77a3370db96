"""The gate that the documentation gives away: its steps are run as GitHub runs them, with a launcher that is told."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli import make_parser

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.safe_load((ROOT / "docs/gate.yml").read_text())
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["duel"]["steps"]
(DUEL,) = (step for step in STEPS if "scripts/launcher duel" in step.get("run", ""))


def run_duel(folder: Path, base: str, code: int) -> tuple[int, list[str]]:
    """Run the step in a folder with a launcher that ends with this code; return the step's, and what it was asked."""
    (folder / "scripts").mkdir()
    launcher = folder / "scripts/launcher"
    launcher.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >asked\nexit {code}\n')
    launcher.chmod(0o755)
    assert DUEL["env"] == {"BASE": "${{ github.base_ref }}"}
    # https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax: the shell where none is named
    done = subprocess.run(["bash", "-e", "-c", DUEL["run"]], cwd=folder, env={"BASE": base}, check=False)
    return done.returncode, (folder / "asked").read_text().splitlines()


def test_its_programs_are_there() -> None:
    for step in STEPS:
        program = step.get("run", "").partition(" ")[0]
        assert not program.startswith("./") or (ROOT / program).is_file()
    assert WORKFLOW[True] == "pull_request"  # YAML 1.1 takes `on` for a truth


def test_its_command_is_one_that_the_launcher_takes(tmp_path: Path) -> None:
    _, asked = run_duel(tmp_path, "main", 0)
    parsed = make_parser().parse_args(asked)
    assert (parsed.against, parsed.output, parsed.wakers) == ("origin/main", "duel.jsonl", [])
    (kept,) = (step["with"]["path"] for step in STEPS if "upload-artifact" in step.get("uses", ""))
    assert kept == parsed.output


def test_the_doctor_that_it_speaks_of_measures_the_same_engine(tmp_path: Path) -> None:
    _, asked = run_duel(tmp_path, "main", 0)
    head = (ROOT / "docs/gate.yml").read_text().replace("\n# ", " ")
    doctor = make_parser().parse_args(head.partition("`launcher ")[2].partition("`")[0].split())
    assert (doctor.aa, doctor.engine) == (True, make_parser().parse_args(asked).engine)


def test_a_branch_can_have_any_name_and_is_never_run(tmp_path: Path) -> None:
    name = 'a"; touch was_run; echo "$(touch was_run) `touch was_run`'
    _, asked = run_duel(tmp_path, name, 0)
    assert f"origin/{name}" in asked
    assert not (tmp_path / "was_run").exists()
    assert not any("${{" in step.get("run", "") for step in STEPS)


@pytest.mark.parametrize(("code", "step"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 5), (77, 77)])
def test_only_cannot_tell_is_let_through(code: int, step: int, tmp_path: Path) -> None:
    assert run_duel(tmp_path, "main", code)[0] == step


def test_the_revision_that_it_compares_with_is_fetched() -> None:
    (fetched,) = (step["with"] for step in STEPS if "actions/checkout" in step.get("uses", ""))
    assert fetched["fetch-depth"] == 0
