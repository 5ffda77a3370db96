"""`launcher run --block`: the same words on every engine, and one sentence for each disk that cannot be had."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import pytest

from launcher import engines
from tests.support.sessions import PAIRS, run_launcher, skip_unless_it_runs

PAIRS_AND_IO = [(name, engine, "thread") for name, engine in PAIRS] + [
    ("process/epoll", engine, "uring") for engine in engines.names()
]


@pytest.mark.parametrize(("name", "engine", "io_name"), PAIRS_AND_IO)
def test_the_guest_writes_and_reads_a_disk_and_another_run_reads_it_again(
    name: str, engine: str, io_name: str, tmp_path: Path
) -> None:
    skip_unless_it_runs(name, engine)
    path = tmp_path / "disk"
    path.write_bytes(bytes(200 * 512))  # the last request is shorter
    run = ["run", f"--engine={engine}", f"--waker={name}", f"--block-io={io_name}"]
    done = run_launcher(*run, f"--block={path}", "blk", "all", "77")
    assert (done.returncode, done.stdout) == (
        0,
        b"blk: disk has 200 sectors\nblk: wrote and flushed 200 sectors\n"
        b"blk: read 200 sectors, every byte is right\nblk: past the end: status 1\n",
    ), done.stderr
    content = path.read_bytes()
    again = run_launcher(*run, f"--block=ro:{path}", "blk", "all", "77")
    assert (again.returncode, again.stdout) == (
        0,
        b"blk: disk has 200 sectors\nblk: it cannot be written\n"
        b"blk: read 200 sectors, every byte is right\nblk: past the end: status 1\n",
    ), again.stderr
    assert path.read_bytes() == content
    other = run_launcher(*run, f"--block=ro:{path}", "blk", "all", "78")
    assert other.returncode == 1
    assert b"blk died: blk: wrong bytes in the 128 sectors from 0 on" in other.stderr


@pytest.mark.parametrize("engine", engines.names())
def test_the_guest_writes_a_log(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * 512))
    done = run_launcher("run", f"--engine={engine}", f"--block={path}", "blk", "log", "3")
    assert (done.returncode, done.stdout) == (0, b"1\n2\n3\n"), done.stderr
    content = path.read_bytes()  # two blocks' room: the third went where the first was
    assert [content[at : at + 8] for at in (0, 31 * 512, 32 * 512)] == [
        bytes([3, 0, 0, 0, 0, 0, 0, 0]),
        bytes([3, 0, 0, 0, 31, 0, 0, 0]),
        bytes([2, 0, 0, 0, 32, 0, 0, 0]),
    ]


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["1"], b"blk: 2048 sectors are more than the disk has"),
        (["all", "x"], b"blk: 'x' is not a number"),
        (["al"], b"blk: 'al' is not a number"),
    ],
)
def test_what_the_guest_cannot_do_it_says(args: list[str], reason: bytes, engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * 512))
    done = run_launcher("run", f"--engine={engine}", f"--block={path}", "blk", *args)
    assert done.returncode == 1
    assert done.stderr.endswith(b"guest blk died: " + reason + b"\n")


@pytest.mark.parametrize("engine", engines.names())
def test_without_a_disk_the_guest_says_how_to_get_one(engine: str) -> None:
    skip_unless_it_runs("process/select", engine)
    done = run_launcher("run", f"--engine={engine}", "blk")
    assert done.returncode == 1
    assert b"run with --block FILE" in done.stderr


def test_a_disk_that_cannot_be_had_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512))
    for args, sentence in (
        ((f"--block={tmp_path}/none",), b"for reading and writing: No such file or directory\n"),
        ((f"--block={path}", f"--block={path}"), b"is in use, and only readers (ro:"),
        ((f"--block={path}", "--block-io=magic"), b"invalid choice: 'magic'"),
        ((f"--block={path}", "--block-io=uring", "--waker=inline/sigio"), b"sends no SIGIO; use another strategy\n"),
    ):
        done = run_launcher("run", "--engine=python", *args, "say")
        assert done.returncode == 1
        assert sentence in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("engine", engines.names())
def test_the_guest_reads_at_random_places(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    path = tmp_path / "disk"
    content = bytearray().join(pack("<II", 1, sector).ljust(512) for sector in range(64))
    path.write_bytes(content)
    run = ["run", f"--engine={engine}", f"--block={path}", "blk", "read"]
    done = run_launcher(*run, "8", "100", "5")
    assert (done.returncode, done.stdout) == (0, b"blk: reads\nblk: read 100 pages, every one is right\n"), done.stderr
    content[4:8] = content[8 * 512 + 4 : 8 * 512 + 8]
    path.write_bytes(content)
    wrong = run_launcher(*run, "8", "100", "5")
    assert (wrong.returncode, wrong.stdout) == (1, b"blk: reads\n")
    assert wrong.stderr.endswith(b"guest blk died: blk: another page came at sector 0\n")
    deep = run_launcher(*run, "33", "100", "5")
    assert (deep.returncode, b"blk: it reads 1 to 32 pages at a time" in deep.stderr) == (1, True)
