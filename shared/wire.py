"""Messages between two processes over a Unix socket, with fds passed along.

A message is one packet (SOCK_SEQPACKET, so that a release costs one system call and a packet's fds arrive with its
first byte): a header, a few 64-bit numbers, a text. The header repeats what the packet claims to be, and a packet
that is not that is refused by name: bad, short, oversized, of another version or of an unknown kind. Whatever fds a
refused packet carried are closed before the refusal is raised.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from shared.errors import WireError

VERSION = 1
MAX_PACKET = 64 * 1024
MAX_FDS = 253  # what the kernel takes in one SCM_RIGHTS (SCM_MAX_FD)

_MAGIC = b"lgwk"
# magic, version, kind, fds, numbers, bytes of text
_HEADER = struct.Struct("<4sBBHHI")
_LOSSES = socket.MSG_TRUNC | socket.MSG_CTRUNC
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)


class Kind(IntEnum):
    """What a message says."""

    HELLO = 1  # Launcher to Waker or peer: here is the memory, the page, the way to break
    READY = 2  # back: mapped and seen
    WATCH = 3  # Launcher to Waker: a generation, then five numbers a source
    UNWATCH = 4  # Launcher to Waker: a generation, then the tokens
    DONE = 5  # back: this generation is obeyed
    REFUSED = 6  # back: this generation is not, and why
    RELEASE = 7  # Launcher to Waker: up to this break, all is serviced
    FILL = 8  # Launcher to a vring peer: put this text into the next buffer
    NUDGE = 9  # Launcher to Waker: the Guest may have given buffers


# Each wake-up ends with a release, so it is read the short way: exactly this header, then one number.
_NUMBER = struct.Struct("<Q")
_RELEASE = _HEADER.pack(_MAGIC, VERSION, Kind.RELEASE, 0, 1, 0)
_RELEASE_SIZE = len(_RELEASE) + _NUMBER.size


class Message(NamedTuple):
    """One message. Whoever receives it owns its fds."""

    kind: Kind
    numbers: tuple[int, ...] = ()
    text: str = ""
    fds: tuple[int, ...] = ()

    def close_fds(self) -> None:
        """Close the fds that came along, for whoever does not take them."""
        _close(self.fds)


class PeerGone(WireError):  # noqa: N818 - an event
    """Say that the other side has closed, or died."""


class Wire:
    """One end. One thread at a time sends, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # A fresh buffer for each message would cost more than the message.
        self._packet = bytearray(MAX_PACKET)
        self._buffers = [self._packet]

    @classmethod
    def pair(cls) -> tuple[Wire, socket.socket]:
        """Make both ends: ours, and the socket that goes to the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def on_fd(cls, fd: int) -> Wire:
        """Take over the socket that is open as `fd`."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd))

    def fileno(self) -> int:
        """Return the fd, which stays ours."""
        return self._socket.fileno()

    def send(self, kind: Kind, numbers: Sequence[int] = (), text: str = "", fds: Sequence[int] = ()) -> None:
        """Send one message; the fds stay the caller's.

        Raises `PeerGone` when nobody can receive it any more, `WireError` when it is larger than a packet.
        """
        body = text.encode()
        size = _HEADER.size + 8 * len(numbers) + len(body)
        if size > MAX_PACKET or len(fds) > MAX_FDS:
            raise WireError(
                f"wire: {kind.name} with {size} bytes and {len(fds)} fds is more than a packet takes "
                f"({MAX_PACKET} and {MAX_FDS}); send several"
            )
        packet = (
            _HEADER.pack(_MAGIC, VERSION, kind, len(fds), len(numbers), len(body))
            + struct.pack(f"<{len(numbers)}Q", *numbers)
            + body
        )
        try:
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                self._socket.sendmsg([packet], [rights], socket.MSG_NOSIGNAL)
            else:
                self._socket.send(packet, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGone(f"wire: the other side is gone ({error.strerror})") from error

    def receive(self) -> Message:
        """Wait for one message; raise `PeerGone` at the end of file, `WireError` for what is no message."""
        try:
            size, ancillary, flags, _ = self._socket.recvmsg_into(self._buffers, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise PeerGone("wire: the other side died with messages unread") from error
        if size == _RELEASE_SIZE and not ancillary and not flags & _LOSSES and self._packet.startswith(_RELEASE):
            return Message(Kind.RELEASE, _NUMBER.unpack_from(self._packet, _HEADER.size))
        packet = bytes(memoryview(self._packet)[:size])
        fds = _fds(ancillary)
        try:
            if not packet and not fds:
                raise PeerGone("wire: the other side closed the socket")
            return _parse(packet, fds, flags)
        except BaseException:
            _close(fds)
            raise

    def close(self) -> None:
        """Close the socket; the other side sees the end of file."""
        self._socket.close()


def _fds(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return tuple(fds)


def _parse(packet: bytes, fds: tuple[int, ...], flags: int) -> Message:
    if flags & socket.MSG_TRUNC:
        raise WireError(f"wire: oversized message, more than {MAX_PACKET} bytes")
    if flags & socket.MSG_CTRUNC:
        raise WireError(f"wire: bad message, fds were lost on the way ({len(fds)} came); is RLIMIT_NOFILE reached?")
    if len(packet) < _HEADER.size:
        raise WireError(f"wire: short message, {len(packet)} bytes are not even a header ({_HEADER.size})")
    magic, version, kind, fd_count, number_count, text_length = _HEADER.unpack_from(packet)
    if magic != _MAGIC:
        raise WireError(f"wire: bad message, it begins with {magic!r} instead of {_MAGIC!r}")
    if version != VERSION:
        raise WireError(f"wire: message of version {version}, but this side speaks {VERSION}")
    body = _HEADER.size + 8 * number_count
    if len(packet) != body + text_length:
        size = "short" if len(packet) < body + text_length else "oversized"
        raise WireError(f"wire: {size} message, {len(packet)} bytes where its header says {body + text_length}")
    if fd_count != len(fds):
        raise WireError(f"wire: bad message, {len(fds)} fds where its header says {fd_count}")
    try:
        known = Kind(kind)
    except ValueError:
        raise WireError(f"wire: message of unknown kind {kind}") from None
    try:
        text = packet[body:].decode()
    except UnicodeDecodeError:
        raise WireError("wire: bad message, its text is not UTF-8") from None
    return Message(known, struct.unpack_from(f"<{number_count}Q", packet, _HEADER.size), text, fds)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
