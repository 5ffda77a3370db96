"""Answers ARP, ICMP echo and UDP echo (any port) for the IPv4 address in its first argument, until an EOT (0x04).

No frame is copied: the buffer in which one came goes, with the answer in it, to be sent, and then back to receive.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from launcher.api import Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode, panic
from launcher.guests.answers import turn_round
from launcher.guests.support import do, find_device, kick
from shared.virtio import ANY_LAYOUT, CONSOLE, NET, NET_MAC, RING_FEATURES

_EOT = 0x04
_HEADER_SIZE = 10
_MAC_SIZE = 6
_BUFFERS = 64
_BUFFER_SIZE = 1536  # the header, and the largest frame with a VLAN tag
_TYPED_ADDR = 0x10000
_TYPED_SIZE = 256
_TEXT_ADDR = _TYPED_ADDR + _TYPED_SIZE
_FRAMES_ADDR = 0x11000
_FEATURES = RING_FEATURES | 1 << NET_MAC | 1 << ANY_LAYOUT


def run(cpu: Cpu) -> GuestCode:
    """Answer until EOT."""
    net = find_device(cpu, NET, "pong: a network (run with --tunnet)")
    console = find_device(cpu, CONSOLE, "pong: a console")
    addr = _own_address(cpu.args())
    mac = net.config[:_MAC_SIZE]
    received, sent = yield from net.start(_FEATURES)
    typed, said = yield from console.start()
    text = f"pong: {mac.hex(':')}, {IPv4Address(addr)}\n".encode()
    cpu.memory.view(_TEXT_ADDR, len(text))[:] = text
    yield from do(said, [(_TEXT_ADDR, len(text))], [])
    typed.add([], [(_TYPED_ADDR, _TYPED_SIZE)], 0)
    yield from kick(typed)
    for number in range(_BUFFERS):
        received.add([], [(_FRAMES_ADDR + number * _BUFFER_SIZE, _BUFFER_SIZE)], number)
    yield from kick(received)
    while True:
        while (used := received.reap()) is not None:
            number, written = used
            at = _FRAMES_ADDR + number * _BUFFER_SIZE
            frame = cpu.memory.view(at + _HEADER_SIZE, max(written - _HEADER_SIZE, 0))
            if turn_round(frame, mac, addr):
                cpu.memory.view(at, _HEADER_SIZE)[:] = bytes(_HEADER_SIZE)
                sent.add([(at, written)], [], number)
            else:
                received.add([], [(at, _BUFFER_SIZE)], number)
        yield from kick(sent)
        while (used := sent.reap()) is not None:
            number, _ = used
            received.add([], [(_FRAMES_ADDR + number * _BUFFER_SIZE, _BUFFER_SIZE)], number)
        yield from kick(received)
        while (used := typed.reap()) is not None:
            if _EOT in bytes(cpu.memory.view(_TYPED_ADDR, used[1])):
                yield Shutdown()
            typed.add([], [(_TYPED_ADDR, _TYPED_SIZE)], 0)
        yield from kick(typed)
        # Frames that are sent ask for an interrupt only where no other would come: when none is left to receive into.
        if received.in_flight:
            sent.disable_interrupts()
        elif sent.enable_interrupts():
            continue
        yield HALT


def _own_address(args: list[bytes]) -> bytes:
    try:
        return IPv4Address(args[0].decode()).packed
    except (IndexError, UnicodeDecodeError, AddressValueError):
        panic("pong: its first argument is to be its IPv4 address")
