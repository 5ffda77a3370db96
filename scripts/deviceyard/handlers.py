"""What one small buffer costs the Launcher: processor time of the thread that serves the Guest, device by device.

The devices are the real ones, on a pipe, a TAP interface, a file; the Guest's half of their rings is here. With each
buffer the handler is called once, and asked for its interrupts, as the loop does it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from select import POLLIN, poll
from struct import pack
from time import thread_time_ns

from launcher.api import Device
from launcher.devices import tap
from launcher.devices.block import Block
from launcher.devices.blockio import NAMES
from launcher.devices.console import Console
from launcher.devices.net import HEADER_SIZE, Net
from launcher.devices.rng import Rng
from launcher.devices.tap import Tap
from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.virtio import BLK_FLUSH
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout

_RINGS = 0x1000, 0x4000
_BUFFER, _OUTPUT = 0x10000, 0x20000
_SIZE = 64
_PAGE = 4096
# An experimental kind of frame: nobody answers it.
_FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(_SIZE - 14)

Cost = tuple[str, list[int]]


def costs(disk: Path, count: int) -> Iterator[Cost]:
    """Yield what is done, and how many ns each time took, all devices in turn; the clock's own cost is in them."""
    yield "the clock itself", [_cpu_ns(lambda: None) for _ in range(count)]
    with GuestMemory.create(0x100000) as memory:
        yield from _console(memory, count)
        yield from _rng(memory, count)
        yield from _net(memory, count)
        for io in NAMES:
            yield from _block(memory, disk, io, count)


def _begin(memory: GuestMemory, device: Device) -> list[DriverQueue[int]]:
    """Start a device; return the Guest's half of its rings."""
    layouts = [VringLayout.contiguous(num, addr) for num, addr in zip(device.queue_sizes, _RINGS, strict=False)]
    for layout in layouts:
        layout.zero(memory)
    device.attach(layouts)
    device.start(
        [Virtqueue(memory, layout, device.name, event_idx=True, features=1 << BLK_FLUSH) for layout in layouts]
    )
    return [DriverQueue(memory, layout, "guest", event_idx=True) for layout in layouts]


def _console(memory: GuestMemory, count: int) -> Iterator[Cost]:
    with ExitStack() as opened:
        typed_end, keys = os.pipe()
        screen = os.open("/dev/null", os.O_WRONLY)
        for fd in (typed_end, keys, screen):
            opened.callback(os.close, fd)
        console = opened.enter_context(closing(Console(typed_end, screen)))
        typed, said = _begin(memory, console)
        to_guest, from_guest = [], []
        for _ in range(count):
            typed.add([], [(_BUFFER, _SIZE)], 0)
            typed.kick_needed()
            os.write(keys, b"x")
            to_guest.append(_cpu_ns(lambda: (console.on_ready(console._source), console.lines())))
            typed.reap()
            said.add([(_OUTPUT, _SIZE)], [], 0)
            said.kick_needed()
            from_guest.append(_cpu_ns(lambda: (console.on_notify(1), console.lines())))
            said.reap()
        yield "console: a byte typed", to_guest
        yield f"console: {_SIZE} bytes said", from_guest


def _rng(memory: GuestMemory, count: int) -> Iterator[Cost]:
    with closing(Rng()) as rng:
        (asked,) = _begin(memory, rng)
        found = []
        for _ in range(count):
            asked.add([], [(_BUFFER, _SIZE)], 0)
            asked.kick_needed()
            found.append(_cpu_ns(lambda: (rng.on_notify(0), rng.lines())))
            asked.reap()
        yield f"rng: {_SIZE} bytes", found


def _net(memory: GuestMemory, count: int) -> Iterator[Cost]:
    with ExitStack() as opened:
        interface = Tap(tap.parse("192.168.77.1"))
        net = opened.enter_context(closing(Net(interface)))
        received, sent = _begin(memory, net)
        outside = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        outside.bind((interface.name, 0))
        memory.view(_OUTPUT + HEADER_SIZE, len(_FRAME))[:] = _FRAME
        received.add([], [(_BUFFER, 1536)], 0)
        while net.on_ready(net._source) and received.reap():  # what the host says by itself as an interface comes up
            received.add([], [(_BUFFER, 1536)], 0)
        to_guest, from_guest = [], []
        for _ in range(count):
            if not received.in_flight:
                received.add([], [(_BUFFER, 1536)], 0)
            received.kick_needed()
            outside.send(_FRAME)
            to_guest.append(_cpu_ns(lambda: (net.on_ready(net._source), net.lines())))
            while received.reap() is None:
                outside.send(_FRAME)
                net.on_ready(net._source)
            sent.add([(_OUTPUT, HEADER_SIZE + len(_FRAME))], [], 0)
            sent.kick_needed()
            from_guest.append(_cpu_ns(lambda: (net.on_notify(1), net.lines())))
            sent.reap()
        yield f"net: a frame of {_SIZE} bytes to the Guest", to_guest
        yield f"net: a frame of {_SIZE} bytes from the Guest", from_guest


def _block(memory: GuestMemory, disk: Path, io: str, count: int) -> Iterator[Cost]:
    header, pages = 0x30000, disk.stat().st_size // _PAGE
    with closing(Block(f"ro:{disk}", io)) as block:
        (queue,) = _begin(memory, block)
        ready = poll()
        ready.register(block._source.fd, POLLIN)
        notified, done = [], []
        for turn in range(count):
            memory.view(header, 16)[:] = pack("<IIQ", 0, 0, turn * 37 % pages * 8)
            queue.add([(header, 16)], [(_BUFFER, _PAGE), (header + 16, 1)], 0)
            queue.kick_needed()
            notified.append(_cpu_ns(lambda: (block.on_notify(0), block.lines())))
            spent = 0
            while queue.reap() is None:
                ready.poll()
                spent += _cpu_ns(lambda: (block.on_ready(block._source), block.lines()))
            done.append(spent)
        yield f"block: a read of 4 KiB begun, by {io}", notified
        yield f"block: a read of 4 KiB given back, by {io}", done


def _cpu_ns(handle: Callable[[], object]) -> int:
    begin = thread_time_ns()
    handle()
    return thread_time_ns() - begin
