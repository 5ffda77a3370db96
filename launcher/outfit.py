"""The devices of a run: what its options ask for, in the order in which they stand on the device page."""

from __future__ import annotations

from collections.abc import Sequence

import waker
from launcher.api import Device
from launcher.config import RunConfig
from launcher.devices import tap
from launcher.devices.block import Block
from launcher.devices.console import Console
from launcher.devices.net import Net
from launcher.devices.rng import Rng
from launcher.devices.tap import Tap
from launcher.stop import StopRequests
from shared.memory import GuestMemory
from shared.page import Page
from shared.room import Room


def make_devices(config: RunConfig, memory: GuestMemory, page: Page, stop: StopRequests) -> list[Device]:
    """Open the devices; what is open already is closed again when one cannot be.

    Raises `UsageError` for a file or an interface that cannot be had. The vCPU's thread calls it.
    """

    def room(slot: int) -> Room | None:
        return Room(memory, page, slot) if waker.parse(config.waker).is_ring_aware else None

    devices: list[Device] = []
    try:
        devices.append(Console(stop_fd=stop.source.fd, room=room(0)))
        if config.has_rng or config.rng_file is not None:
            devices.append(Rng(config.rng_file))
        for number, tunnet in enumerate(config.tunnet):
            devices.append(Net(Tap(tap.parse(tunnet)), f"net{number}", room(1 + number)))
        for number, disk in enumerate(config.block):
            devices.append(Block(disk, config.block_io, number))
    except BaseException:
        for device in reversed(devices):
            device.close()
        raise
    return devices


def summaries(devices: Sequence[Device]) -> list[str]:
    """Return what the devices have to say at the end, where what they do can be lost on the way."""
    return [device.summary() for device in devices if isinstance(device, Net)]
