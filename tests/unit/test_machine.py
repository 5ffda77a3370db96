"""What cannot be opened to the end leaves nothing open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.config import RunConfig
from launcher.devices.block import Block
from launcher.devices.rng import Rng
from launcher.machine import open_machine
from launcher.outfit import make_devices
from launcher.stop import StopRequests
from shared.errors import UsageError
from shared.memory import GuestMemory
from shared.page import Page
from tests.support.fds import no_new_fds


def test_where_a_device_has_no_room_it_is_closed_and_those_behind_it_too(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    with no_new_fds():
        devices = [*(Block(f"ro:{disk}", "thread", number) for number in range(40)), Rng(os.devnull)]
        with (
            pytest.raises(UsageError, match=r"^block\d+: no room for another ring of 128; leave a device out$"),
            open_machine(RunConfig(engine="python", waker="thread/select"), lambda memory, page: devices),
        ):
            pass
        Block(str(disk), "thread").close()  # nobody has it locked any more


def test_a_device_that_cannot_be_had_closes_those_before_it(tmp_path: Path, memory: GuestMemory) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    config = RunConfig(has_rng=True, block=(str(disk), str(tmp_path / "none")))
    with Page.create() as page, StopRequests() as stop, no_new_fds():
        with pytest.raises(UsageError, match="No such file"):
            make_devices(config, memory, page, stop)
        Block(str(disk), "thread").close()
