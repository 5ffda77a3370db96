"""A network of an arm's own: a TAP in it is seen by nobody else, and goes with the arm.

    python -S -P -m launcher.bench.measure.namespace      asks in a process of its own whether one can be had here

A socket belongs to the network in which it was made. So the arm makes the one by which it is asked, and hands it to
the stimulus, which needs no privilege and is in no namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from launcher.bench.measure.spec import ROOT
from shared.errors import CannotRunError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP_NO_PI = 0x400454CA, 0x1002
_TX_DROPPED = 11  # the column of what the interface did not take from the host, after its name: /proc/net/dev


def enter() -> None:
    """Move this process into a new and empty network, for good; raise `CannotRunError` where that is not allowed.

    Who may not gets the right to in a namespace of users of its own; for that the process must have one thread only.
    """
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise CannotRunError(f"it needs a TAP, and {_TUN} may not be opened here; load the module tun, or run as root")
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    ids = (("uid_map", os.geteuid()), ("gid_map", os.getegid()))
    if unshare(_CLONE_NEWNET) != 0:
        if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            raise CannotRunError(
                f"it needs a network of its own, and none can be made (unshare: {os.strerror(ctypes.get_errno())}); "
                "run as root, or allow namespaces of users"
            )
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in ids:
            Path(f"/proc/self/{name}").write_text(f"{number} {number} 1")
    with suppress(OSError):  # no IPv6 here. With it, an interface that comes up sends frames that nobody asked for.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")


def drops(interface: str) -> int:
    """Return how many frames the host could not put into this interface's queue; in the network of this process."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() == interface:
            return int(numbers.split()[_TX_DROPPED])
    return 0


@cache
def missing() -> str | None:
    """Return why no network of its own can be had here, or None; tried in a process that ends with it."""
    asked = subprocess.run(
        [sys.executable, "-S", "-P", "-m", __name__],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    words = asked.stderr.strip().rpartition("\n")[2]
    return (
        None
        if asked.returncode == 0
        else words or f"it needs a network of its own; to try that ended with {asked.returncode}"
    )


def _try_out() -> None:
    """Enter one, and make a TAP there: namespaces of users may be allowed, and what one could do in them may not."""
    try:
        enter()
        with open(_TUN, "r+b", buffering=0) as tun:
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"try%d", _IFF_TAP_NO_PI))
    except CannotRunError as reason:
        sys.exit(str(reason))
    except OSError as error:
        sys.exit(f"it needs a TAP, and none can be made here ({error.strerror}); run as root")


if __name__ == "__main__":
    _try_out()
