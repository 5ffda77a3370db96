"""`run` starts and stops in every way it can and leaves nothing behind; and what is left behind would be seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.sessions import ROOT, environment

CYCLES = ROOT / "scripts" / "lifecycle" / "cycles.py"

# Leaves one thing of a kind behind, between two counts.
LEAVE = """
import os, socket, subprocess, sys
sys.path[:0] = [{root!r}, {folder!r}]
import census, cycles
is_apart = census.be_apart()
before = census.take(is_apart)
{leave}
sys.exit(0 if cycles._compare(before, census.take(is_apart)) else 4)
"""
LEFTOVERS = {
    "fds": "os.dup(1)",
    "processes": (
        "import atexit\n"
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "atexit.register(child.kill)"
    ),
    "/dev/shm": "open('/dev/shm/cycles-left', 'w').close()",
    "/dev/mqueue": "import posix_ipc; posix_ipc.MessageQueue('/cycles-left', posix_ipc.O_CREX)",
    "sysvipc sem": "import ctypes; ctypes.CDLL(None).semget(0, 1, 0o1600)",
    "bridge ports": (
        "census.make_bridge()\n"
        "with census.IPRoute() as route:\n"
        "    route.link('add', ifname='tap0', kind='veth', peer='tap1')\n"
        "    at = [route.link_lookup(ifname=name)[0] for name in ('tap0', census.BRIDGE)]\n"
        "    route.link('set', index=at[0], master=at[1])"
    ),
}


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *args], capture_output=True, text=True, timeout=55, env=environment(), check=False
    )


def test_a_few_cycles_leave_nothing_behind() -> None:
    done = run(str(CYCLES), "16", "--inside", "12", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
    assert "LEFT BEHIND" not in done.stdout


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_what_is_left_behind_is_seen(kind: str) -> None:
    # Apart from everybody, or it would itself be left behind.
    probe = "import sys; sys.path[:0] = [{!r}, {!r}]; import census; sys.exit(not census.be_apart())"
    if run("-c", probe.format(str(ROOT), str(CYCLES.parent))).returncode:
        pytest.skip("no right to make namespaces")
    done = run("-c", LEAVE.format(root=str(ROOT), folder=str(CYCLES.parent), leave=LEFTOVERS[kind]))
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "LEFT BEHIND" in line and line.startswith(kind)]
    assert line
