"""What the pages say is so."""

from __future__ import annotations

import os
import re
from importlib import util
from pathlib import Path

import pytest

from launcher.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_has_no_gaps_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("what", ["wakers", "breakers", "engines", "guests"])
def test_the_readme_shows_what_list_prints(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    listed = re.sub(r" \(not here: .*\)$", "", capsys.readouterr().out, flags=re.M)  # there it is
    assert listed in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_strategy_in_contributing_is_one() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
    assert len(code.splitlines()) < 40
    spec = util.spec_from_loader("example", loader=None)
    assert spec is not None
    module = util.module_from_spec(spec)
    exec(code, module.__dict__)
    assert module.missing() is None
    strategy = module.Strategy()
    fds = [os.eventfd(0) for _ in range(3)]
    for fd in fds:
        strategy.add(fd)
    os.eventfd_write(fds[1], 1)
    assert strategy.wait() == {fds[1]}
    assert strategy.wait() == {fds[1]}  # level-triggered
    os.close(fds[2])
    assert strategy.wait() == {fds[1]}  # a neighbour was closed
    strategy.remove(fds[2])
    strategy.close()
    os.close(fds[0])
    os.close(fds[1])
