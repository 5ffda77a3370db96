"""A Launcher with the `pong` Guest, and who asks it: pings and UDP echoes, by sockets alone. For scripts/ping, too."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HOST, GUEST = "192.168.77.1", "192.168.77.2"
ECHO_PORT = 7
PATIENCE_S = 30.0
_LOST_S = 3.0  # with nothing else under way, an answer that takes so long will not come
_EOT = b"\x04"
_ICMP = struct.Struct("!BBHHH")  # type, code, checksum, id, number


class Pong:
    """`launcher run … pong`, or another Guest that says a line when it is ready, as it is then. Use it in a `with`."""

    def __init__(self, *options: str, tunnet: str = f"{HOST}/24", addr: str = GUEST, image: str = "pong") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "run", f"--tunnet={tunnet}", *options, image, addr],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.said = self._read_line()
        """What the Guest said on its console when it was ready."""
        self.transcript = self.said.encode()
        """All that it has said there, once it has ended."""

    def finish(self, typed: bytes = _EOT) -> tuple[int, str]:
        """Type an EOT and wait for the end; return the exit code and what was said on standard error."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(typed)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for the end, without asking for it: what the console reads stays open."""
        self.process.wait(PATIENCE_S)
        rest, errors = self.process.communicate()
        self.transcript += rest
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Pong:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE_S)[0] or not (
            line := self.process.stdout.readline()
        ):
            self.process.kill()
            raise AssertionError(f"the Guest said nothing: {self.process.communicate()[1].decode()}")
        return line.decode()


class Echoes(NamedTuple):
    """What came of datagrams that were sent: each of them is one of these."""

    right: int
    wrong: int
    lost: int


def ping(count: int, size: int = 56, addr: str = GUEST) -> list[float]:
    """Ask for one ICMP echo after the other; return the times of the answers that came, in seconds."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asker:
        asker.connect((addr, 0))
        for number in range(count):
            body = random.Random(number).randbytes(size)
            asked = _ICMP.pack(8, 0, 0, os.getpid() & 0xFFFF, number) + body
            asked = asked[:2] + checksum(asked).to_bytes(2, "big") + asked[4:]
            sent_at = perf_counter()
            asker.send(asked)
            if _has_answer(asker, asked):
                found.append(perf_counter() - sent_at)
    return found


def echo_datagrams(count: int, seed: int, window: int = 64, addr: str = GUEST, port: int = ECHO_PORT) -> Echoes:
    """Send datagrams of 1 to 1,472 random bytes, at most `window` of them under way, and compare what comes back.

    One path keeps their order. So what comes is the oldest under way, or a later one, and then those before it are
    lost; or it is none of them, and wrong. Nothing is sent twice.
    """
    rng = random.Random(seed)
    under_way: deque[bytes] = deque()
    sent = right = wrong = lost = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20
        )  # as much as there may be: nothing lost on our side
        asker.connect((addr, port))
        while sent < count or under_way:
            while sent < count and len(under_way) < window:
                under_way.append(rng.randbytes(rng.randint(1, 1472)))
                asker.send(under_way[-1])
                sent += 1
            if not select.select([asker], [], [], _LOST_S)[0]:
                lost += len(under_way)
                under_way.clear()
                continue
            answer = asker.recv(65536)
            if answer not in under_way:
                wrong += 1
                under_way.popleft()
                continue
            while under_way.popleft() != answer:
                lost += 1
            right += 1
    return Echoes(right, wrong, lost)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) over `data`, which is 0 when it holds its own already."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _has_answer(asker: socket.socket, asked: bytes) -> bool:
    while select.select([asker], [], [], _LOST_S)[0]:
        packet = asker.recv(65536)
        answer = packet[(packet[0] & 15) * 4 :]
        if answer[:2] == b"\0\0" and answer[4:] == asked[4:] and checksum(answer) == 0:
            return True
    return False


@contextlib.contextmanager
def pong(*options: str, tunnet: str = f"{HOST}/24", addr: str = GUEST, image: str = "pong") -> Iterator[Pong]:
    """Run one that ends by an EOT, in silence and with 0."""
    with Pong(*options, tunnet=tunnet, addr=addr, image=image) as running:
        yield running
        code, said = running.finish()
        assert (code, said.count("\n")) == (0, 1), said
