"""A C program that knows only linux/virtio_ring.h is the other side of our ring, in its own process.

Both sides sleep when they have nothing to do and notify only when the other asked for it, so a notification that
either side forgets leaves both asleep, and the test times out.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.driverqueue import DriverQueue
from shared.memory import GuestMemory
from shared.virtqueue import Virtqueue
from shared.vring_layout import VringLayout

COUNT = 70_000  # more than the 65536 after which an index wraps
NUM = 64
ALIGN = 4096
MEMORY_SIZE = 0x40000
DATA = 0x20000  # as in peer.c, when it is the driver
FLIP = bytes(byte ^ 0x5A for byte in range(256))

CONTIGUOUS = VringLayout.contiguous(NUM, 0x3000, ALIGN)
SEPARATE = VringLayout(NUM, 0x5010, 0x2002, 0x9004)
LAYOUTS = pytest.mark.parametrize("layout", [CONTIGUOUS, SEPARATE], ids=["contiguous", "separate areas"])
EVENT_IDX = pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event_idx"])


@pytest.fixture(scope="session")
def peer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the peer, or skip with the reason."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler (cc) here")
    includes = [cc, "-E", "-include", "linux/virtio_ring.h", "-x", "c", os.devnull]
    if subprocess.run(includes, capture_output=True, check=False).returncode:
        pytest.skip("no linux/virtio_ring.h here")
    path = tmp_path_factory.mktemp("interop") / "peer"
    source = Path(__file__).with_name("peer.c")
    subprocess.run([cc, "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, source], check=True)
    return path


class Peer:
    """The running C program, the memory it shares, and the two ways to wake each other."""

    def __init__(self, path: Path, role: str, layout: VringLayout, event_idx: bool) -> None:
        with ExitStack() as opened:
            self.memory = opened.enter_context(GuestMemory.create(MEMORY_SIZE))
            self.kick, self.call = os.eventfd(0), os.eventfd(0)
            opened.callback(os.close, self.kick)
            opened.callback(os.close, self.call)
            fds = [self.memory.fileno(), self.kick, self.call]
            areas = [layout.num, layout.desc, layout.avail, layout.used, ALIGN if layout is CONTIGUOUS else 0]
            self.process = subprocess.Popen(
                [path, role, *map(str, [*fds, *areas, int(event_idx), COUNT])],
                pass_fds=fds,
                stderr=subprocess.PIPE,
                text=True,
            )
            opened.callback(self.kill)
            self.pidfd = os.pidfd_open(self.process.pid)
            opened.callback(os.close, self.pidfd)
            self.opened = opened.pop_all()

    def wait_for(self, eventfd: int) -> None:
        """Sleep until the peer notifies; fail when it died instead."""
        poll = select.poll()
        poll.register(eventfd, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        if eventfd not in dict(poll.poll()):
            self.check_end()
            pytest.fail("the peer thinks it is done")
        os.eventfd_read(eventfd)

    def check_end(self) -> None:
        _, complaint = self.process.communicate()
        assert (self.process.returncode, complaint) == (0, "")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def start_peer(peer_path: Path) -> Iterator[ExitStack]:
    """Close what the test started, also when it failed."""
    with ExitStack() as stack:
        yield stack


def request_of(i: int) -> bytes:
    return bytes((i * 31 + at * 7 + 1) & 0xFF for at in range(1 + i % 19))


def serve(peer: Peer, queue: Virtqueue, batch: bool) -> None:
    done = 0
    while done < COUNT:
        if batch:
            chains = queue.pop_many(50)
            queue.push_many([(chain, chain.write(chain.read().translate(FLIP))) for chain in reversed(chains)])
            done += len(chains)
            progress = bool(chains)
        else:
            progress = False
            while chain := queue.pop():
                queue.push(chain, chain.write(chain.read().translate(FLIP)))
                done += 1
                progress = True
                if queue.needs_interrupt():
                    os.eventfd_write(peer.call, 1)
        if queue.needs_interrupt():
            os.eventfd_write(peer.call, 1)
        if progress:
            queue.disable_notify()
        elif not queue.enable_notify():
            peer.wait_for(peer.kick)


def drive(peer: Peer, queue: DriverQueue) -> None:
    requests = [request_of(i) for i in range(19 * 256)]  # they repeat after that
    free = list(range(NUM // 2))
    sent = done = 0
    while done < COUNT:
        # Now a few in flight, so that both sides often fall asleep, and now all that there is room for.
        window = 1 + done % 6 if done // 512 % 4 else NUM
        while free and sent < COUNT and queue.free >= 4 and sent - done < window:
            slot = free.pop()
            request = requests[sent % len(requests)]
            addr = DATA + slot * 512
            peer.memory.view(addr, len(request))[:] = request
            half = len(request) // 2
            readable = [(addr, half), (addr + half, len(request) - half)] if half else [(addr, 1)]
            queue.add(
                readable,
                [(addr + 64, 1), (addr + 65, 40)],
                (slot, request),
                indirect_at=addr + 256 if sent % 2 else None,
            )
            sent += 1
        if queue.kick_needed():
            os.eventfd_write(peer.kick, 1)
        progress = False
        while reaped := queue.reap():
            (slot, request), written = reaped  # type: ignore[misc]
            assert bytes(peer.memory.view(DATA + slot * 512 + 64, written)) == request.translate(FLIP)
            free.append(slot)
            done += 1
            progress = True
        if progress:
            queue.disable_interrupts()
        elif done < COUNT and not queue.enable_interrupts():
            peer.wait_for(peer.call)


@LAYOUTS
@EVENT_IDX
@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "batches"])
def test_a_c_driver_is_served(
    peer_path: Path, start_peer: ExitStack, layout: VringLayout, event_idx: bool, batch: bool
) -> None:
    peer = Peer(peer_path, "driver", layout, event_idx)
    start_peer.enter_context(peer.opened)
    serve(peer, Virtqueue(peer.memory, layout, "interop", event_idx=event_idx), batch)
    peer.check_end()


@LAYOUTS
@EVENT_IDX
def test_a_c_device_is_driven(peer_path: Path, start_peer: ExitStack, layout: VringLayout, event_idx: bool) -> None:
    peer = Peer(peer_path, "device", layout, event_idx)
    start_peer.enter_context(peer.opened)
    drive(peer, DriverQueue(peer.memory, layout, "interop", event_idx=event_idx, indirect=True))
    peer.check_end()


@pytest.mark.parametrize(("base", "align"), [(0, 4096), (0x7000, 4096), (0x10000, 65536), (0x240, 64), (16, 4)])
def test_a_contiguous_ring_lies_where_vring_init_puts_it(peer_path: Path, base: int, align: int) -> None:
    done = subprocess.run([peer_path, "layout", str(base), str(align)], capture_output=True, text=True, check=True)
    lines = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [1 << bit for bit in range(16)]
    for num, avail, used, used_event, avail_event, size in lines:
        layout = VringLayout.contiguous(num, base, align)
        assert (layout.desc, layout.avail, layout.used) == (base, avail, used)
        assert (layout.used_event, layout.avail_event) == (used_event, avail_event)
        if base % align == 0:
            assert layout.size == size
