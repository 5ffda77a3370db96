"""A ring of io_uring gives the kernel all that was queued, whatever the kernel thinks of one of the requests."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from select import POLLIN

import pytest

from shared import uring
from tests.support.fds import no_new_fds

NO_SUCH_OPCODE = 255


@pytest.fixture
def ring() -> Iterator[uring.Ring]:
    if reason := uring.missing():
        pytest.skip(reason)
    with no_new_fds(), closing(uring.Ring(8, 16)) as ring:
        yield ring


def test_a_request_that_the_kernel_refuses_to_begin_holds_up_none_behind_it(ring: uring.Ring) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        for number in range(5):
            ring._queue(NO_SUCH_OPCODE, 0, -1, 0, 0, 0, 0, 10 + number)
            ring.poll_add(reader, POLLIN, number)
        ring.submit()
        assert ring.room() == 8
        found = sorted(ring.take())
        assert found == [(n, POLLIN) for n in range(5)] + [(10 + n, -errno.EINVAL) for n in range(5)]
    finally:
        os.close(reader)
        os.close(writer)
