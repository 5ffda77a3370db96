"""A message in a POSIX message queue that a halted vCPU receives: a queue for one message of one byte.

The queue is opened by name (posix_ipc), and the name is unlinked at once: on Linux a queue's descriptor is a file
descriptor, so a Waker is passed it like any other, and one that replaces it later is passed it again. No peer ever
needs the name, nor posix_ipc. What is passed is a descriptor that can only send, and does not block: a queue that is
full holds the kick.

Between mq_open and mq_unlink there is a name for some microseconds, and no way to have none: a Launcher that is
killed right there leaves it. So it is always the same one for a user: there is never more than one, and whoever
comes next takes it away. Two Launchers that meet there may unlink each other's name; each has its queue by then.
"""

from __future__ import annotations

import contextlib
import os
from typing import ClassVar

from shared.breaker import ExitFlag, KickedByFd
from shared.errors import CannotRunError
from shared.linux import mq_receive, mq_send
from shared.page import Page

_MESSAGE = b"!"


class _NoQueueError(Exception):
    """Say why there is no queue to be had."""


class MqueueBreaker(KickedByFd):
    """What is sent stays until it is received."""

    kind: ClassVar[str] = "mqueue"

    @staticmethod
    def missing() -> str | None:
        """Return why a queue cannot be made here, found out by making one."""
        try:
            os.close(_open_unnamed())
        except _NoQueueError as reason:
            return str(reason)
        return None

    @classmethod
    def create(cls, page: Page, _flag: ExitFlag | None = None) -> MqueueBreaker:
        """Make one for a vCPU of this process."""
        try:
            reader = _open_unnamed()
        except _NoQueueError as reason:
            raise CannotRunError(f"breaker 'mqueue' cannot work here: {reason}") from reason
        try:
            # Opened anew, not duplicated: whether it blocks belongs to the open file, and the reader must.
            writer = os.open(f"/proc/self/fd/{reader}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(reader)
            raise
        return cls(page, writer, reader)

    def break_out(self) -> None:
        self._set()
        with contextlib.suppress(BlockingIOError):  # full: the kick is there
            mq_send(self._writer, _MESSAGE)

    def wait(self) -> None:
        with contextlib.suppress(InterruptedError):
            mq_receive(self._reader, len(_MESSAGE))


def name() -> str:
    """Return the name that every queue of this user has while it is being made."""
    return f"/lguest-launcher-{os.geteuid()}"


def _open_unnamed() -> int:
    """Return the descriptor of a new queue that has no name any more."""
    try:
        import posix_ipc
    except ImportError as error:
        raise _NoQueueError("the Python module posix_ipc is not installed") from error
    try:
        while True:
            with contextlib.suppress(posix_ipc.ExistentialError):
                fd: int = posix_ipc.MessageQueue(
                    name(), posix_ipc.O_CREX, mode=0o600, max_messages=1, max_message_size=len(_MESSAGE)
                ).mqd
                break
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue(name())  # of one who was killed here, or is a step behind
        with contextlib.suppress(posix_ipc.ExistentialError):  # one who was a step behind has done it
            posix_ipc.unlink_message_queue(name())
    except posix_ipc.PermissionsError as error:
        raise _NoQueueError(f"the message queue {name()} is another user's") from error
    except (posix_ipc.Error, OSError) as error:
        raise _NoQueueError(f"mq_open: {getattr(error, 'strerror', None) or error}") from error
    return fd
