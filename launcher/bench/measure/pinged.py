"""The network device of case `ping`: it notes when the Guest's answer is back where the question came from.

    stimulus: a datagram -> TAP -> Waker -> Launcher -> Guest pong -> Launcher -> TAP -> the stimulus' socket

The TAP hands a frame over within the write that sends it, so when that returns the answer lies in the socket of whoever
asked. That is the time that counts: the round trip, without how long it takes until the stimulus, which has other
things to do, reads it. (The stimulus looks at every answer all the same.)

It stands apart from props.py because a tree that is measured may be older than its network device.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from time import monotonic_ns

from launcher.bench.measure.namespace import drops
from launcher.bench.measure.props import Served
from launcher.devices import tap
from launcher.devices.net import HEADER_SIZE, Net, make_mac
from launcher.devices.tap import Tap
from shared.errors import LabError
from shared.room import Room
from shared.virtqueue import Chain, Virtqueue
from waker import Source

_HOST = "192.168.77.1/24"  # in a network where nobody else is
GUEST_ADDR = "192.168.77.2"
_ECHO_PORT = 7
_PROTOCOL = HEADER_SIZE + 14 + 9  # Ethernet, then the byte of IPv4 that says what is in it
_UDP = 17
_NUMBER = HEADER_SIZE + 14 + 20 + 8  # Ethernet, IPv4, UDP
_NUMBER_SIZE = 8


class Pinged(Net):
    """The Guest's network device, on a TAP of its own. The process is to be in a network of its own."""

    def __init__(self, served: Served, room: Room | None) -> None:
        """Make the TAP, and tell the host where the Guest is: to ask for that is not what is measured."""
        self._interface = Tap(tap.parse(_HOST))
        super().__init__(self._interface, "net0", room)
        self._served = served
        _introduce(self._interface.name, make_mac(self._interface))

    @property
    def is_started(self) -> bool:
        """Whether the Guest's driver is there."""
        return bool(self._queues)

    def open_socket(self) -> socket.socket:
        """Return a socket that asks the Guest; the caller closes it."""
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asker.connect((GUEST_ADDR, _ECHO_PORT))
        return asker

    def dropped(self) -> int:
        """Return how many frames were lost on their way, and so by no Waker."""
        return self.receive_drops + self.send_drops + drops(self._interface.name)

    def on_ready(self, source: Source) -> bool:
        """Take the frames that have come; what the Guest makes of them comes later."""
        keep = super().on_ready(source)
        self._served.see()
        return keep

    def _write(self, queue: Virtqueue, chain: Chain) -> bool:
        is_sent = super()._write(queue, chain)
        now_ns = monotonic_ns()
        frame = chain.readable[0]
        if is_sent and len(frame) >= _NUMBER + _NUMBER_SIZE and frame[_PROTOCOL] == _UDP:
            self._served.note_row(int.from_bytes(frame[_NUMBER : _NUMBER + _NUMBER_SIZE], "little"), now_ns)
        return is_sent


def _introduce(interface: str, mac: bytes) -> None:
    from pyroute2 import IPRoute  # late, as in tap.py
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            (index,) = ip.link_lookup(ifname=interface)
            ip.neigh("replace", dst=str(IPv4Address(GUEST_ADDR)), lladdr=mac.hex(":"), ifindex=index, state="permanent")
    except NetlinkError as error:
        raise LabError(f"ping: cannot tell {interface} where the Guest is: {error}") from error
