"""A network of one's own for a test: a namespace that goes with the last who is in it, and a look at its interfaces."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute

from tests.support.rescue import PATIENCE_S

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network() -> Iterator[None]:
    """Put this thread, and what it starts, into a new and empty network; skip the test where that is not allowed."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/net/tun that may be opened here")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"no network of its own for a test: {os.strerror(ctypes.get_errno())} (unshare)")
        try:
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)


def interfaces() -> set[str]:
    """Return the names of all interfaces but the loopback's."""
    with IPRoute() as ip:
        return {link.get_attr("IFLA_IFNAME") for link in ip.get_links()} - {"lo"}


def addresses(name: str) -> set[str]:
    """Return the IPv4 addresses of one interface, with their prefix lengths."""
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=name)
        found = ip.get_addr(index=index, family=2)
        return {f"{entry.get_attr('IFA_ADDRESS')}/{entry['prefixlen']}" for entry in found}


def make_bridge(name: str, address: str) -> None:
    """Make a bridge with this address (of a /24) for the host, and set it up."""
    with IPRoute() as ip:
        ip.link("add", ifname=name, kind="bridge")
        (index,) = ip.link_lookup(ifname=name)
        ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up")


def ports_of(bridge: str) -> set[str]:
    """Return the names of the interfaces that are ports of this bridge."""
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=bridge)
        return {link.get_attr("IFLA_IFNAME") for link in ip.get_links() if link.get_attr("IFLA_MASTER") == index}


def set_link(name: str, state: str) -> None:
    """Set an interface up or down."""
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=name)
        ip.link("set", index=index, state=state)


def delete_link(name: str) -> None:
    """Delete an interface under whoever uses it."""
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=name)
        ip.link("del", index=index)


class Wire:
    """Any frame in and out by an interface, under the host's own stack. Use it in a `with`."""

    def __init__(self, name: str) -> None:
        every_kind = 3  # linux/if_ether.h
        self._end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every_kind))
        self._end.bind((name, every_kind))
        self._own = self._end.getsockname()[4]

    def exchange(self, frames: Sequence[bytes], until: bytes) -> list[bytes]:
        """Send frames, and return those that come back, but for what is the host's own, up to `until`."""
        outgoing = 4  # linux/if_packet.h
        found: list[bytes] = []
        for frame in frames:
            self._end.send(frame)
        while until not in found:
            assert select.select([self._end], [], [], PATIENCE_S)[0], f"it did not come; what came: {found}"
            frame, (_, _, kind, _, _) = self._end.recvfrom(65536)
            if kind != outgoing and frame[:6] != self._own:
                found.append(frame)
        return found

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
