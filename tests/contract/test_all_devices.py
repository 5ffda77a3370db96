"""Every device of a Launcher at once, on the Wakers and engines that differ most; and a disk that is served by UDP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import engines
from launcher.guests.net_blk import MOST
from shared.virtio import BLK_ID_BYTES, BLK_S_IOERR, BLK_S_OK, BLK_S_UNSUPP, BLK_T_GET_ID, BLK_T_IN, BLK_T_OUT
from tests.support.netblk import SECTOR, Client
from tests.support.network import own_network
from tests.support.pong import GUEST, Echoes, Pong, echo_datagrams, ping, pong
from tests.support.sessions import run_launcher, skip_unless_it_runs

WAKERS = ("process/select", "thread/select", "process/epoll", "inline/uring", "thread/epoll+ring-aware")
RUNS = [(engine, name) for engine in ("python", "kvm") for name in WAKERS] + [("unicorn", "process/select")]
UDP_RUNS = [("python", name) for name in WAKERS[::2]] + [(engine, WAKERS[0]) for engine in ("kvm", "unicorn")]
SECTORS = 200  # the last request is shorter
TYPED = bytes(byte for byte in range(256) if byte != 4) * 40  # more than the console's buffers hold

TRANSCRIPT = b"""all: console, it sends back
all: rng, it gives 32 bytes at a time
all: net, 02:00:c0:a8:4d:01, 192.168.77.2
all: block, %d sectors%b
%ball: console, %d bytes sent back
all: rng, no 32 bytes came twice
all: net, %d packets answered
all: block, %d sectors right
"""


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


@pytest.mark.parametrize(("engine", "name"), RUNS)
def test_all_devices_work_at_once(engine: str, name: str, tmp_path: Path) -> None:
    skip_unless_it_runs(name, engine)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SECTORS * SECTOR))
    options = (f"--engine={engine}", f"--waker={name}", "--rng")
    with Pong(*options, f"--block={disk}", image="all") as running:
        assert len(ping(5)) == 5
        assert echo_datagrams(100, seed=7) == Echoes(100, 0, 0)
        code, said = running.finish(TYPED + b"\x04")
        assert (code, said.count("\n")) == (0, 1), said
        assert running.transcript == TRANSCRIPT % (SECTORS, b"", TYPED, len(TYPED), 105, SECTORS)
    content = disk.read_bytes()
    heads = [content[at : at + 8] for at in range(0, len(content), SECTOR)]
    assert heads == [(1).to_bytes(4, "little") + n.to_bytes(4, "little") for n in range(SECTORS)]


@pytest.mark.parametrize("engine", ["python", "kvm"])
def test_a_disk_that_cannot_be_written_is_compared_with_what_a_run_before_left(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SECTORS * SECTOR))
    options = (f"--engine={engine}", "--rng")
    for block in (disk, f"ro:{disk}"):
        with pong(*options, f"--block={block}", image="all") as running:
            pass
    assert running.transcript == TRANSCRIPT % (SECTORS, b", read-only", b"", 0, 0, SECTORS)
    content = bytearray(disk.read_bytes())
    content[100 * SECTOR + 9] ^= 1
    disk.write_bytes(content)
    with Pong(*options, f"--block=ro:{disk}", image="all") as running:
        code, said = running.wait()
    assert code == 1
    assert said.endswith("guest all died: all: wrong bytes in the 128 sectors from 0 on\n")


@pytest.mark.parametrize("engine", engines.names())
def test_entropy_that_repeats_is_noticed(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    done = run_launcher(
        *("run", f"--engine={engine}", "--tunnet=192.168.77.1", "--rng-file=/dev/zero", f"--block={disk}"),
        *("all", GUEST),
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"guest all died: all: the same 32 random bytes came twice\n")


@pytest.mark.parametrize(("engine", "name"), UDP_RUNS)
def test_a_disk_is_served_by_udp_and_every_byte_is_right(engine: str, name: str, tmp_path: Path) -> None:
    skip_unless_it_runs(name, engine)
    disk = tmp_path / "disk"
    model = bytearray(bytes(SECTORS * SECTOR))
    disk.write_bytes(model)
    options = (f"--engine={engine}", f"--waker={name}", f"--block={disk}")
    with pong(*options, image="net-blk") as running, Client() as client:
        assert running.said == f"net-blk: 02:00:c0:a8:4d:01, 192.168.77.2, {SECTORS} sectors\n"
        load = client.load(model, 200, depth=48, seed=8)  # more than the Guest has buffers for
        assert load.reads + load.writes == 200
        assert disk.read_bytes() == model
        assert len(ping(2)) == 2
        assert echo_datagrams(20, seed=9) == Echoes(20, 0, 0)  # another port is pong's


@pytest.mark.parametrize("engine", engines.names())
def test_what_the_disk_refuses_comes_back_as_its_status(engine: str, tmp_path: Path) -> None:
    skip_unless_it_runs("process/select", engine)
    disk = tmp_path / "disk"
    disk.write_bytes(b"d" * SECTORS * SECTOR)
    with pong(f"--engine={engine}", f"--block={disk}", image="net-blk"), Client() as client:
        assert client.ask(BLK_T_GET_ID, room=BLK_ID_BYTES) == (BLK_S_OK, b"disk".ljust(BLK_ID_BYTES, b"\0"))
        for sector in (SECTORS, SECTORS - 1, (1 << 64) - 1):
            assert client.ask(BLK_T_IN, sector, room=MOST) == (BLK_S_IOERR, b"")
            assert client.ask(BLK_T_OUT, sector, data=bytes(MOST)) == (BLK_S_IOERR, b"")
        for room in (0, 1, 511, MOST + 1, MOST + 512, (1 << 32) - 1):
            assert client.ask(BLK_T_IN, room=room) == (BLK_S_IOERR, b"")
        for size in (0, 1, 513, 1448):
            assert client.ask(BLK_T_OUT, data=bytes(size)) == (BLK_S_IOERR, b"")
        assert client.ask(BLK_T_OUT, room=512, data=bytes(512)) == (BLK_S_IOERR, b"")
        assert client.ask(BLK_T_IN, room=512, data=bytes(512)) == (BLK_S_IOERR, b"")
        assert client.ask(99, room=512, data=bytes(512)) == (BLK_S_UNSUPP, b"")
        for size in (1, 16, 23):  # too short to be answered
            client.send_bytes(bytes(size))
        assert client.ask(BLK_T_IN, 1, room=512) == (BLK_S_OK, b"d" * 512)
    assert disk.read_bytes() == b"d" * SECTORS * SECTOR
