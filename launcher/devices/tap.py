"""A TAP interface: the host's end of a Guest's network, as an fd that gives and takes one Ethernet frame at a time.

`--tunnet ADDR[/LEN]` gives the host that address on it; `--tunnet bridge:NAME` makes it a port of a bridge. The
interface is not persistent: it goes with its last fd, so that even a Launcher that is killed leaves none behind.

There is no IFF_VNET_HDR: with it each frame has the offload header of whoever sent it before it, which a device that
offers no offload has to blank anyway (VirtIO 1.3, 5.1.6.4.1). Without TUNSETOFFLOAD all that comes is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from shared.errors import UsageError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_DEVICE = "/dev/net/tun"
_BRIDGE = "bridge:"
_DEFAULT_LEN = 24
_NAME_LIMIT = 15  # IFNAMSIZ less the NUL

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_IFREQ = struct.Struct("16sH22x")

_RIGHTS = "CAP_NET_ADMIN and a /dev/net/tun that may be opened: run as root, or in a namespace (unshare -rn)"


class Tunnet(NamedTuple):
    """What --tunnet asks for: an address for the host's end, or a bridge for it to join."""

    text: str
    address: IPv4Interface | None
    bridge: str | None


def parse(text: str) -> Tunnet:
    """Read `ADDR[/LEN]` or `bridge:NAME`; raise `UsageError` for what is neither."""
    if text.startswith(_BRIDGE):
        name = text.removeprefix(_BRIDGE)
        if not re.fullmatch(r"[^\s/:]+", name) or len(os.fsencode(name)) > _NAME_LIMIT or name in (".", ".."):
            raise UsageError(f"--tunnet '{text}': '{name}' cannot be the name of a bridge; give bridge:NAME")
        return Tunnet(text, None, name)
    addr_text, slash, len_text = text.partition("/")
    try:
        addr = IPv4Address(addr_text)
    except AddressValueError:
        raise UsageError(
            f"--tunnet '{text}': '{addr_text}' is no IPv4 address; give ADDR, ADDR/LEN or bridge:NAME"
        ) from None
    length = len_text if slash else str(_DEFAULT_LEN)
    # A Guest needs a second address on that network: 30 leaves two, 31 is the network of just two (RFC 3021).
    if not re.fullmatch("[0-9]{1,2}", length) or not 1 <= int(length) <= 31:
        raise UsageError(f"--tunnet '{text}': '{len_text}' is no prefix length with room for a Guest; give /1 to /31")
    address = IPv4Interface(f"{addr}/{length}")
    if reason := _why_no_host(address):
        raise UsageError(f"--tunnet '{text}': {addr} {reason}; give the host an address of its own")
    return Tunnet(text, address, None)


class Tap:
    """One interface, up and ready. `close` makes it go. Any thread."""

    def __init__(self, tunnet: Tunnet) -> None:
        """Make it, and give it what `tunnet` asks for; raise `UsageError` when it cannot be had."""
        self.tunnet = tunnet
        self._fd = _open_device(tunnet)
        try:
            self.name = _make_interface(self._fd, tunnet)
            _configure(self.name, tunnet)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the fd, which stays ours: it does not block."""
        return self._fd

    def close(self) -> None:
        """Take the interface away; once closed, closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _why_no_host(address: IPv4Interface) -> str | None:
    network: IPv4Network = address.network
    addr = address.ip
    if addr.is_multicast:
        return "is a multicast address"
    if addr.is_unspecified or addr.is_loopback or addr.is_reserved:
        return "belongs to no host on a network"
    if network.prefixlen < 31 and addr in (network.network_address, network.broadcast_address):
        return f"stands for all of {network}"
    return None


def _open_device(tunnet: Tunnet) -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UsageError(f"--tunnet '{tunnet.text}' needs {_RIGHTS}") from error
        raise UsageError(
            f"--tunnet '{tunnet.text}': cannot open {_DEVICE}: {error.strerror}; it needs the module tun (modprobe tun)"
        ) from error


def _make_interface(fd: int, tunnet: Tunnet) -> str:
    """Have the kernel make an interface for this fd, and return the name that it chose."""
    request = _IFREQ.pack(b"lguest%d", _IFF_TAP | _IFF_NO_PI)
    try:
        request = fcntl.ioctl(fd, _TUNSETIFF, request)
    except PermissionError as error:
        raise UsageError(f"--tunnet '{tunnet.text}' needs {_RIGHTS}") from error
    except OSError as error:
        raise UsageError(f"--tunnet '{tunnet.text}': cannot make an interface: {error.strerror}") from error
    name, _ = _IFREQ.unpack(request)
    return str(name.rstrip(b"\0"), "ascii")


def _configure(name: str, tunnet: Tunnet) -> None:
    """Set the interface up, with its address, or as a port of the bridge."""
    from pyroute2 import IPRoute  # late: it takes as long to import as all the rest
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            (index,) = ip.link_lookup(ifname=name)
            if tunnet.bridge is not None:
                ip.link("set", index=index, master=_find_bridge(ip, tunnet, tunnet.bridge))
            if tunnet.address is not None:
                address = tunnet.address
                ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            ip.link("set", index=index, state="up")
    except NetlinkError as error:
        if error.code in (errno.EACCES, errno.EPERM):
            raise UsageError(f"--tunnet '{tunnet.text}' needs {_RIGHTS}") from error
        raise UsageError(f"--tunnet '{tunnet.text}': cannot set {name} up: {os.strerror(error.code)}") from error


def _find_bridge(ip: IPRoute, tunnet: Tunnet, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise UsageError(
            f"--tunnet '{tunnet.text}': there is no bridge '{name}'; make it first (ip link add {name} type bridge)"
        )
    (link,) = ip.link("get", index=found[0])
    info = link.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "bridge":
        raise UsageError(f"--tunnet '{tunnet.text}': '{name}' is no bridge; name one, or give an address")
    return int(found[0])
