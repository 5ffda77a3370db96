"""A Waker or a Launcher that is killed costs no byte: scripts/block-deaths does more of this."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import engines
from tests.support.block_deaths import kill_launcher, kill_wakers
from tests.support.fds import no_new_fds
from tests.support.sessions import skip_unless_it_runs

WAKERS = [
    ("process/select", "thread"),
    ("thread/select", "thread"),
    ("process/epoll", "uring"),
    ("inline/uring", "thread"),
]
SAID = """\
blk: disk has 2048 sectors
blk: wrote and flushed 2048 sectors
blk: read 2048 sectors, every byte is right
blk: past the end: status 1
"""


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize(("name", "io_name"), WAKERS)
def test_wakers_die_and_every_byte_is_right(name: str, io_name: str, engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs(name, engine)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    with no_new_fds():
        got = kill_wakers(path, name, engine, io_name, seed=5)
    assert got.said == SAID
    assert bool(got.replaced) == (name != "inline/uring")


@pytest.mark.parametrize(("name", "io_name"), WAKERS)
def test_a_launcher_dies_and_the_file_has_each_acknowledged_write_whole(
    name: str, io_name: str, tmp_path: Path
) -> None:
    skip_unless_it_runs(name, "python")
    got = kill_launcher(tmp_path / "disk", name, "python", io_name, seed=2, most=50)
    assert got.acknowledged >= 1
