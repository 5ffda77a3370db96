"""What a Guest written in Python needs of its machine: find a device on the device page, start it, drive its rings.

The twin of i386/guest.h.
"""

from __future__ import annotations

from collections.abc import Generator
from ctypes import sizeof
from typing import NamedTuple

from launcher.api import Notify
from launcher.engines.python import HALT, Cpu, Irqs, Step, panic
from shared.driverqueue import DriverQueue
from shared.memory import PAGE_SIZE
from shared.structs import DeviceDesc, VqConfig
from shared.virtio import ACKNOWLEDGE, DRIVER, DRIVER_OK, RING_EVENT_IDX, RING_FEATURES, RING_INDIRECT_DESC
from shared.vring_layout import VringLayout


class FoundDevice(NamedTuple):
    """A device as the Guest found it on the page."""

    cpu: Cpu
    desc_addr: int
    rings: list[VringLayout]
    irqs: list[int]
    offered: int
    acked_addr: int
    config: bytes

    def start(self, features: int = RING_FEATURES) -> Generator[Notify, Irqs, list[DriverQueue[int]]]:
        """Acknowledge those of `features` that are offered, say DRIVER_OK, and return the queues."""
        desc = self.cpu.memory.at(DeviceDesc, self.desc_addr)
        desc.status |= ACKNOWLEDGE | DRIVER
        acked = self.offered & features
        self.cpu.memory.view(self.acked_addr, 4)[:] = acked.to_bytes(4, "little")
        queues: list[DriverQueue[int]] = [
            DriverQueue(
                self.cpu.memory,
                ring,
                f"guest queue {number}",
                event_idx=bool(acked >> RING_EVENT_IDX & 1),
                indirect=bool(acked >> RING_INDIRECT_DESC & 1),
            )
            for number, ring in enumerate(self.rings)
        ]
        desc.status |= DRIVER_OK
        yield Notify(self.desc_addr)
        return queues


def do(
    queue: DriverQueue[int], readable: list[tuple[int, int]], writable: list[tuple[int, int]]
) -> Generator[Notify | Step, Irqs, int]:
    """Give a queue one chain, (address, length) each, and sleep until it is used; return how many bytes came."""
    queue.add(readable, writable, 0)
    yield from kick(queue)
    while (used := queue.reap()) is None:
        yield HALT
    return used[1]


def kick(queue: DriverQueue[int]) -> Generator[Notify, Irqs, None]:
    """Notify the device of what was added, if it wants to know."""
    if queue.kick_needed():
        yield Notify(queue.layout.desc)


def find_device(cpu: Cpu, type_id: int, name: str) -> FoundDevice:
    """Return the first device of this type; without one, crash the Guest with a reason that has `name` in it."""
    addr = cpu.device_page
    while True:
        desc = cpu.memory.at(DeviceDesc, addr)
        if desc.type == 0:
            panic(f"{name}: not on the device page")
        configs_addr = addr + sizeof(DeviceDesc)
        features_addr = configs_addr + desc.num_vq * sizeof(VqConfig)
        if desc.type == type_id:
            configs = [
                cpu.memory.at(VqConfig, configs_addr + number * sizeof(VqConfig)) for number in range(desc.num_vq)
            ]
            return FoundDevice(
                cpu,
                addr,
                [VringLayout.contiguous(config.num, config.pfn * PAGE_SIZE) for config in configs],
                [config.irq for config in configs],
                int.from_bytes(cpu.memory.view(features_addr, desc.feature_len), "little"),
                features_addr + desc.feature_len,
                bytes(cpu.memory.view(features_addr + 2 * desc.feature_len, desc.config_len)),
            )
        addr = features_addr + 2 * desc.feature_len + desc.config_len
