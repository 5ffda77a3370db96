"""The devices of a run: what its options ask for, in the order in which they stand on the device page."""

from __future__ import annotations

import waker
from launcher.api import Device
from launcher.config import RunConfig
from launcher.devices.block import Block
from launcher.devices.console import Console
from launcher.devices.rng import Rng
from launcher.stop import StopRequests
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room


def make_devices(config: RunConfig, memory: GuestMemory, page: Page, stop: StopRequests) -> list[Device]:
    """Open the devices; what is open already is closed again when one cannot be.

    Raises `UsageError` for a file or an interface that cannot be had. The vCPU's thread calls it.
    """
    room = Room(memory, page, slot=0) if waker.parse(config.waker).is_ring_aware else None
    devices: list[Device] = []
    try:
        devices.append(Console(stop_fd=stop.source.fd, room=room))
        if config.has_rng or config.rng_file is not None:
            devices.append(Rng(config.rng_file))
        for number, disk in enumerate(config.block):
            devices.append(Block(disk, config.block_io, number))
    except BaseException:
        for device in reversed(devices):
            device.close()
        raise
    return devices
