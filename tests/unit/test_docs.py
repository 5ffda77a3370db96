"""What the pages say is so."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from importlib import util
from itertools import groupby
from pathlib import Path

import pytest

from launcher.cli import main, make_parser
from shared.errors import LabError
from tests.support.suggested import begun

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "data/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_page_has_no_gaps_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^):]+)\)", text):
        assert (page.parent / target).exists(), target


def commands_of(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each launcher that a page shows being called, or says to call next."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if not re.match(r"\s*(\$|next:) ", line):
            continue
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.commenters, words.whitespace_split = "#", True
        for is_end, part in groupby(words, lambda word: set(word) <= set("();<>|&")):
            found = list(part)
            at = next((at for at, word in enumerate(found) if word in ("./scripts/launcher", "launcher")), None)
            if not is_end and at is not None:
                yield found[at + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_says_to_call_can_be_called(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = list(commands_of(page))
    assert len(called) > 30 or page.name != "README.md" or page.parent != ROOT
    for arguments in called:
        try:
            asked = make_parser().parse_args(arguments)
            if len(getattr(asked, "wakers", ())) == 2:  # what there is not, and what is the same, is refused later
                begun(shlex.join(["launcher", *arguments, "--engine", "python"]), monkeypatch)
        except LabError as error:
            pytest.fail(f"{shlex.join(arguments)}: {error}")


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
