"""What could be left behind, counted: before and after must be the same.

With the right to do so, in namespaces of our own for network, IPC and mounts: what anybody else on this machine opens
meanwhile is then not in the count, and what is left can only be ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import psutil
from pyroute2 import IPRoute

BRIDGE = "cycles0"

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x20000, 0x08000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PR_SET_CHILD_SUBREAPER = 36


def be_apart() -> bool:
    """Move into namespaces of our own; return False, and change nothing, where that is not allowed."""
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET) < 0:
        return False
    for source, target, kind, flags in (
        (None, b"/", None, _MS_REC | _MS_PRIVATE),
        (b"shm", b"/dev/shm", b"tmpfs", 0),
        (b"mqueue", b"/dev/mqueue", b"mqueue", 0),
    ):
        Path(os.fsdecode(target)).mkdir(exist_ok=True)
        if _libc.mount(source, target, kind, flags, None) < 0:
            raise OSError(ctypes.get_errno(), f"mount {os.fsdecode(target)}: {os.strerror(ctypes.get_errno())}")
    return True


def make_bridge() -> None:
    """Make a bridge for TAPs to be put on."""
    with IPRoute() as route:
        route.link("add", ifname=BRIDGE, kind="bridge")
        route.link("set", index=route.link_lookup(ifname=BRIDGE)[0], state="up")


def adopt_orphans() -> None:
    """Have every descendant whose parent dies become our child: then none can hide."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(sid: int) -> list[int]:
    """Reap what has ended of this session, and return the pids of what has not."""
    left = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, ChildProcessError, PermissionError):
            if os.getsid(pid) == sid and os.waitpid(pid, os.WNOHANG)[0] == 0:
                left.append(pid)
    return left


def take(is_apart: bool) -> dict[str, list[str]]:
    """Return all that is there now, by kind."""
    found = {
        "fds": sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": sorted(os.listdir("/proc/self/task")),  # noqa: PTH208
        "processes": [str(child) for child in psutil.Process().children(recursive=True)],
        "/dev/shm": _names("/dev/shm"),
        "/dev/mqueue": _names("/dev/mqueue"),
    }
    for kind in ("sem", "shm", "msg"):
        found[f"sysvipc {kind}"] = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    if is_apart:
        with IPRoute() as route:
            links = [(link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MASTER")) for link in route.get_links()]
        found["interfaces"] = sorted(name for name, _ in links)
        found["bridge ports"] = sorted(name for name, master in links if master)
    return found


def _names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
