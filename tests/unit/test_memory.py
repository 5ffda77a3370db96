"""Guest memory is one thing in every process that maps it, cannot be resized, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import BadAddress, MemoryRefused
from shared.memory import Canary, GuestMemory
from shared.structs import VringDesc
from tests.support.fds import no_new_fds

SIZE = 0x20000
BACKINGS = ["memfd", "posix_shm"]


@pytest.mark.parametrize("backing", BACKINGS)
def test_new_memory_is_zeroed_and_writable(backing: str) -> None:
    with GuestMemory.create(SIZE, backing) as memory:
        assert (memory.size, memory.backing, memory.is_writable, memory.is_shared) == (SIZE, backing, True, True)
        assert bytes(memory.view(0, SIZE)) == bytes(SIZE)
        memory.view(SIZE - 2, 2)[:] = b"ok"
        assert bytes(memory.view(SIZE - 2, 2)) == b"ok"


@pytest.mark.parametrize("size", [-4096, 0, 1, 4095, 4097])
@pytest.mark.parametrize("backing", [*BACKINGS, "private"])
def test_a_size_that_is_not_whole_pages_is_refused(size: int, backing: str) -> None:
    with pytest.raises(MemoryRefused, match=f"^guest memory: {size} bytes is not a positive multiple of 4096$"):
        GuestMemory.private(size) if backing == "private" else GuestMemory.create(size, backing)


def test_memory_that_nobody_has_is_refused_and_leaks_nothing() -> None:
    with no_new_fds(), pytest.raises(OSError, match=r"Cannot allocate memory|File too large"):
        GuestMemory.create(1 << 60)


def test_another_process_sees_the_same_bytes_both_ways() -> None:
    script = """
import os, sys
from shared.memory import GuestMemory
with GuestMemory.attach(int(sys.argv[1]), is_writable=True) as memory:
    memory.view(0x2000, 4)[:] = bytes(memory.view(0x1000, 4))[::-1]
"""
    with GuestMemory.create(SIZE) as memory:
        memory.view(0x1000, 4)[:] = b"abcd"
        subprocess.run([sys.executable, "-c", script, str(memory.fileno())], pass_fds=[memory.fileno()], check=True)
        assert bytes(memory.view(0x2000, 4)) == b"dcba"


def test_a_memfd_can_be_neither_shrunk_nor_grown_nor_unsealed() -> None:
    with GuestMemory.create(SIZE) as memory:
        for size in (0, SIZE - 4096, SIZE + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.fileno(), size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_no_fd_of_memory_is_inherited() -> None:
    with GuestMemory.create(SIZE) as memory, GuestMemory.create(SIZE, "posix_shm") as other:
        with GuestMemory.attach(memory.readonly_fd()) as reader:
            assert not any(os.get_inheritable(it.fileno()) for it in (memory, other, reader))


def test_nothing_is_left_in_dev_shm_even_while_it_is_used() -> None:
    with GuestMemory.create(SIZE, "posix_shm") as memory:
        name = str(Path(f"/proc/self/fd/{memory.fileno()}").readlink())
    assert name.startswith("/dev/shm/")
    assert name.endswith(" (deleted)")


# Reading only


def test_a_readonly_fd_can_be_read_but_not_written() -> None:
    with GuestMemory.create(SIZE) as memory, GuestMemory.attach(memory.readonly_fd()) as reader:
        assert not reader.is_writable
        memory.view(16, 2)[:] = b"\x34\x12"
        assert reader.u16[8] == 0x1234
        with pytest.raises(TypeError):
            reader.view(16, 2)[:] = b"no"
        with pytest.raises(TypeError):
            reader.u16[8] = 1
        with pytest.raises(MemoryRefused, match="read-only here, so no VringDesc can be laid over it"):
            reader.at(VringDesc, 0)


def test_a_readonly_fd_cannot_be_mapped_for_writing() -> None:
    with GuestMemory.create(SIZE) as memory, no_new_fds(), pytest.raises(PermissionError):
        GuestMemory.attach(memory.readonly_fd(), is_writable=True)


def test_a_reader_is_mapped_shared_and_readonly() -> None:
    with GuestMemory.create(SIZE) as memory, GuestMemory.attach(memory.readonly_fd()):
        maps = [line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines() if "guest-memory" in line]
        assert sorted(maps) == ["r--s", "rw-s"]


# Refusals


def test_an_unsealed_memfd_is_refused_and_closed() -> None:
    with no_new_fds():
        fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SIZE)
        with pytest.raises(MemoryRefused, match="the memfd is not sealed against shrinking"):
            GuestMemory.attach(fd)


def test_a_memfd_that_is_not_whole_pages_is_refused_and_closed() -> None:
    with no_new_fds():
        fd = os.memfd_create("odd", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 100)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(MemoryRefused, match="100 bytes is not a positive multiple of 4096"):
            GuestMemory.attach(fd)


def test_the_canary_is_seen_through_a_shared_mapping_and_taken_away_again() -> None:
    with GuestMemory.create(SIZE) as memory:
        memory.view(SIZE - 8, 8)[:] = b"previous"
        with memory.canary() as canary, GuestMemory.attach(memory.readonly_fd(), canary) as reader:
            assert bytes(reader.view(canary.addr, 8)) == canary.word.to_bytes(8, "little")
        assert bytes(memory.view(SIZE - 8, 8)) == b"previous"


def test_a_private_mapping_of_the_owner_is_refused_by_its_canary() -> None:
    with GuestMemory.create(SIZE) as shared:
        stale = mmap.mmap(shared.fileno(), SIZE, mmap.MAP_PRIVATE)
        with GuestMemory(stale, os.dup(shared.fileno()), "memfd") as owner, owner.canary() as canary:
            with no_new_fds(), pytest.raises(MemoryRefused, match="guest memory: a private mapping"):
                GuestMemory.attach(owner.readonly_fd(), canary)


def test_a_canary_outside_memory_is_refused_and_leaks_nothing() -> None:
    with GuestMemory.create(SIZE) as memory, no_new_fds(), pytest.raises(BadAddress):
        GuestMemory.attach(memory.readonly_fd(), Canary(SIZE - 4, 1))


def test_private_memory_has_no_fd_to_hand_over() -> None:
    with GuestMemory.private(SIZE) as memory:
        assert not memory.is_shared
        for hand_over in (memory.fileno, memory.readonly_fd):
            with pytest.raises(MemoryRefused, match="a private mapping has no fd to hand over"):
                hand_over()


def test_a_forked_child_keeps_the_private_memory_of_the_fork() -> None:
    """What 2007 had, and what a Waker must not have."""
    with GuestMemory.private(SIZE) as private, GuestMemory.create(SIZE) as shared:
        go, told = os.eventfd(0), os.eventfd(0)
        child = os.fork()
        if child == 0:
            os.eventfd_read(go)
            os.eventfd_write(told, 1 + private.u16[0] * 2 + shared.u16[0] * 4)
            os._exit(0)
        private.u16[0] = shared.u16[0] = 1
        os.eventfd_write(go, 1)
        seen = os.eventfd_read(told)
        os.waitpid(child, 0)
        os.close(go)
        os.close(told)
    assert seen == 1 + 4


# Addresses


@pytest.mark.parametrize(
    ("addr", "length", "sentence"),
    [
        (SIZE - 4, 5, "5 bytes at 0x1fffc end at 0x20001, past guest memory (0x20000)"),
        (SIZE + 1, 0, "0 bytes at 0x20001 end at 0x20001, past guest memory (0x20000)"),
        (1 << 63, 1 << 63, "9223372036854775808 bytes at 0x8000000000000000 end at 0x10000000000000000, past"),
        (0, -1, "-1 bytes at 0x0: a length cannot be negative"),
    ],
)
def test_an_address_outside_memory_is_refused_in_one_sentence(
    memory: GuestMemory, addr: int, length: int, sentence: str
) -> None:
    with pytest.raises(BadAddress) as caught:
        memory.view(addr, length)
    assert str(caught.value).startswith(sentence)


def test_a_negative_address_is_refused(memory: GuestMemory) -> None:
    for refused in (lambda: memory.view(-4, 4), lambda: memory.view(-4, 8), lambda: memory.at(VringDesc, -16)):
        with pytest.raises(BadAddress):
            refused()


def test_a_view_may_be_all_of_memory_or_nothing_at_its_end(memory: GuestMemory) -> None:
    assert len(memory.view(0, SIZE)) == SIZE
    assert len(memory.view(SIZE, 0)) == 0


def test_a_structure_lies_over_memory(memory: GuestMemory) -> None:
    descriptor = memory.at(VringDesc, SIZE - 16)
    descriptor.next = 0x1234
    assert memory.u16[SIZE // 2 - 1] == 0x1234
    with pytest.raises(BadAddress):
        memory.at(VringDesc, SIZE - 15)


def test_the_host_address_is_that_of_byte_zero(memory: GuestMemory) -> None:
    memory.view(0, 5)[:] = b"hello"
    assert ctypes.string_at(memory.address(), 5) == b"hello"


# Closing


@pytest.mark.parametrize("backing", BACKINGS)
def test_closing_twice_is_closing_once_and_leaks_nothing(backing: str) -> None:
    with no_new_fds():
        memory = GuestMemory.create(SIZE, backing)
        with GuestMemory.attach(memory.readonly_fd()):
            memory.close()
            memory.close()


def test_a_view_that_is_still_held_survives_the_closing() -> None:
    with no_new_fds():
        with GuestMemory.create(SIZE) as memory:
            fd = memory.fileno()
            view, descriptor = memory.view(0, 4), memory.at(VringDesc, 16)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        view[:] = b"held"
        descriptor.len = 7
        assert (bytes(view), descriptor.len) == (b"held", 7)
        del view, descriptor, memory
