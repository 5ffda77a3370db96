"""What the process Waker may touch and what it costs: Guest memory read-only, and little memory of its own."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import waker
from tests.support.sessions import Session, session, skip_unless_it_runs

MOST_PSS = 12 << 20
HEAVY = ("numpy", "rich", "psutil", "posix_ipc", "elftools", "shtab")

every_process_waker = pytest.mark.parametrize("name", [n for n in waker.names() if n.startswith("process/")])


def the_waker(at: Session) -> psutil.Process:
    at.wait_until_it_runs()
    (child,) = at.children()
    return child


def stop(at: Session) -> None:
    at.process.terminate()
    assert at.finish() == 130


@every_process_waker
def test_the_waker_maps_guest_memory_shared_and_cannot_write_it(name: str) -> None:
    skip_unless_it_runs(name, "python")
    with session("run", "--engine=python", f"--waker={name}", "idle") as at:
        maps = Path(f"/proc/{the_waker(at).pid}/maps").read_text().splitlines()
        rights = [line.split()[1] for line in maps if "memfd:guest-memory" in line]
        assert rights == ["r--s"]
        # Nor through the fd: that is opened for reading only (O_ACCMODE, the last octal digit's two low bits).
        for link in Path(f"/proc/{the_waker(at).pid}/fd").iterdir():
            if "guest-memory" in str(link.readlink()):
                flags = Path(f"/proc/{the_waker(at).pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
                assert int(flags, 8) & 3 == 0
        stop(at)


@every_process_waker
def test_the_waker_has_nothing_heavy_in_it(name: str) -> None:
    skip_unless_it_runs(name, "python")
    with session("run", "--engine=python", f"--waker={name}", "idle") as at:
        process = the_waker(at)
        pss = process.memory_full_info().pss
        assert pss < MOST_PSS, f"{pss / (1 << 20):.1f} MiB"
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert [module for module in HEAVY if f"/{module}" in maps] == []
        stop(at)


@every_process_waker
def test_the_waker_inherits_no_file_but_those_it_was_given(name: str, tmp_path: Path) -> None:
    skip_unless_it_runs(name, "python")
    with (tmp_path / "secret").open("w") as secret:
        with session("run", "--engine=python", f"--waker={name}", "idle") as at:
            files = [str(link.readlink()) for link in Path(f"/proc/{the_waker(at).pid}/fd").iterdir()]
            assert secret.name not in files
            assert all(
                file.startswith(("/memfd:", "socket:", "pipe:", "anon_inode:", "/dev/null", "/dev/pts/"))
                for file in files
            ), files
            stop(at)
