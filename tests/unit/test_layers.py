"""Imports go down only: tests and scripts, then launcher, then waker, then shared, then the standard library.

And the process Waker starts in a few tens of milliseconds because its path imports nothing heavy.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.memory import GuestMemory
from shared.page import Page
from shared.wire import Kind, Wire

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("launcher", "waker", "shared")
PLUGIN = ROOT / "launcher/bench/pytest_plugin.py"
# What each floor may take from outside. The lower, the less.
WHEELS = {
    "launcher": {"elftools", "numpy", "psutil", "pyroute2", "rich", "shtab", "unicorn"},
    "waker": set(),
    "shared": {"numpy", "posix_ipc"},
}
HEAVY = {
    "numpy", "rich", "psutil", "posix_ipc", "elftools", "shtab", "argparse", "asyncio", "subprocess", "json",
    "logging", "inspect", "dataclasses", "traceback", "launcher",
}  # fmt: skip


def modules(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module that this file imports, also inside functions, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(module: str) -> str:
    return module.partition(".")[0]


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


ALL = [pytest.param(path, id=str(path.relative_to(ROOT))) for floor in FLOORS for path in modules(floor)]


def test_the_floors_are_found() -> None:
    for floor in FLOORS:
        assert modules(floor)


@pytest.mark.parametrize("path", ALL)
def test_imports_go_down_only(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    below = set(FLOORS[FLOORS.index(floor) :])
    allowed = below | WHEELS[floor] | set(sys.stdlib_module_names)
    if path == PLUGIN:
        allowed |= {"pytest"}
    assert {top(module) for module in imports_of(path)} <= allowed


@pytest.mark.parametrize("path", modules("launcher"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_launcher_knows_the_waker_by_its_front_door(path: Path) -> None:
    behind = {name for name in imports_of(path) if name.startswith("waker.") and is_module(name)}
    assert behind == set()


def test_engines_and_devices_never_meet() -> None:
    for one, other in (("engines", "devices"), ("devices", "engines")):
        for path in modules(f"launcher/{one}"):
            met = {name for name in imports_of(path) if name.startswith(f"launcher.{other}")}
            assert met == set(), path


def test_only_the_machine_and_the_check_know_engines_and_devices_both() -> None:
    both = set()
    for path in modules("launcher"):
        names = set(imports_of(path))
        known = [part for part in ("engines", "devices") if any(n.startswith(f"launcher.{part}") for n in names)]
        if len(known) == 2:
            both.add(path.relative_to(ROOT / "launcher").as_posix())
    assert both <= {"machine.py"}


def test_strategies_know_nobody_but_the_seam() -> None:
    for path in modules("waker/strategies"):
        if path.name == "__init__.py":
            continue
        known = {name for name in imports_of(path) if top(name) in FLOORS and is_module(name)}
        # A variation of a strategy may stand on it.
        known = {name for name in known if not name.startswith("waker.strategies")} - {"shared", "waker"}
        assert known <= {
            "shared.errors",
            "shared.linux",
            "shared.uring",
            "shared.breaker",
            "waker.api",
            "waker.polls",
        }, path


def test_nobody_below_the_tests_imports_tests_or_scripts() -> None:
    for floor in FLOORS:
        for path in modules(floor):
            known = {top(name) for name in imports_of(path)} & {"tests", "scripts", "pytest"}
            # The plugin is pytest's, which imports it; nothing of ours does.
            assert known == ({"pytest"} if path == PLUGIN else set()), path


def test_the_pytest_plugin_costs_nothing_until_it_is_used() -> None:
    plugin = "launcher.bench.pytest_plugin"
    script = f"import sys, pytest; before = set(sys.modules); import {plugin}; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(out.split()) <= {"launcher", "launcher.bench", "launcher.bench.pytest_plugin"}
    for path in modules("launcher"):
        assert "launcher.bench.pytest_plugin" not in set(imports_of(path))


def test_a_process_waker_loads_nothing_heavy_and_no_strategy_but_its_own(tmp_path: Path) -> None:
    ours, theirs = Wire.pair()
    argv = [sys.executable, "-S", "-P", "-v", "-m", "waker"]  # says what it imports
    with theirs, (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=theirs, stderr=said)
    with closing(ours), GuestMemory.create(0x20000) as memory, memory.canary() as canary, Page.create() as page:
        bell = os.eventfd(0)
        ours.send(Kind.HELLO, [*canary], "poll eventfd", [memory.fileno(), page.fileno(), bell])
        os.close(bell)
        assert ours.receive().kind is Kind.READY
    assert process.wait() == 0
    lines = (tmp_path / "said").read_text().splitlines()
    loaded = {line.split("'")[1] for line in lines if line.startswith("import '")}
    assert {name for name in loaded if name.startswith("waker.strategies.")} == {"waker.strategies.poll"}
    assert {top(name) for name in loaded} & HEAVY == set()


def test_a_command_line_is_read_without_what_most_commands_do_not_need() -> None:
    script = "import sys; from launcher.cli import make_parser; make_parser(); print(*sys.modules)"
    argv = [sys.executable, "-S", "-c", script]
    loaded = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "launcher.commands" in loaded
    assert set(loaded) & {"shtab", "logging", "importlib.metadata", "email", "hashlib", "tomllib", "difflib"} == set()
    assert set(loaded) & {"numpy", "rich", "psutil", "posix_ipc", "elftools", "pyroute2", "unicorn"} == set()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "waker/strategies").glob("*.py")))
def test_a_strategy_fits_on_a_page(name: str) -> None:
    assert len((ROOT / "waker/strategies" / name).read_text().splitlines()) <= 120


INSTRUMENT = ("duels", "show", "judging", "measure", "store", "stats")


@pytest.mark.parametrize(
    "path", [p for p in modules("launcher/bench") if p.parent.name != "bench"], ids=lambda p: p.stem
)
def test_each_part_of_the_instrument_imports_only_what_is_further_down(path: Path) -> None:
    part = path.relative_to(ROOT / "launcher/bench").parts[0]
    below = INSTRUMENT[INSTRUMENT.index(part) :]
    parts = {name.split(".")[2] for name in imports_of(path) if name.startswith("launcher.bench.")}
    assert parts <= set(below)
