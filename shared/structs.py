"""Binary layouts, as ctypes structures without logic; each index says who advances it.

Sources: VirtIO 1.3, 2.7 (split rings) and `linux/virtio_ring.h`; `linux/lguest_launcher.h` of Linux 2.6.26 for
the device page; the control page is our own. Sizes and offsets are pinned by tests/unit/test_structs.py. All
fields are little-endian, as is every machine this runs on.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64


class VringDesc(ctypes.Structure):
    """One buffer of a chain (VirtIO 1.3, 2.7.5). The driver writes it."""

    _fields_ = (
        ("addr", c_uint64),
        ("len", c_uint32),
        ("flags", c_uint16),
        ("next", c_uint16),
    )


class VringAvailHead(ctypes.Structure):
    """What stands before the ring of available heads (VirtIO 1.3, 2.7.6). The driver advances `idx`."""

    _fields_ = (("flags", c_uint16), ("idx", c_uint16))


class VringUsedHead(ctypes.Structure):
    """What stands before the ring of used elements (VirtIO 1.3, 2.7.8). The device advances `idx`."""

    _fields_ = (("flags", c_uint16), ("idx", c_uint16))


class VringUsedElem(ctypes.Structure):
    """A chain given back (VirtIO 1.3, 2.7.8): its head, and how many bytes the device wrote into it."""

    _fields_ = (("id", c_uint32), ("len", c_uint32))


class DeviceDesc(ctypes.LittleEndianStructure):
    """One device on the device page (struct lguest_device_desc).

    Followed by `num_vq` VqConfigs, `feature_len` bytes of features the host offers, `feature_len` bytes the
    Guest acknowledged, and `config_len` bytes of configuration. A `type` of 0 ends the page.
    """

    _pack_ = 1
    _fields_ = (
        ("type", c_uint8),
        ("num_vq", c_uint8),
        ("feature_len", c_uint8),
        ("config_len", c_uint8),
        ("status", c_uint8),
    )


class VqConfig(ctypes.LittleEndianStructure):
    """Where a virtqueue is (struct lguest_vqconfig): `num` entries, interrupt `irq`, ring at `pfn` * 4096."""

    _pack_ = 1
    _fields_ = (
        ("num", c_uint16),
        ("irq", c_uint16),
        ("pfn", c_uint32),
    )


VRING_SLOTS = 64
DEVICE_SLOTS = 24
TRACE_LANES = 2
TRACE_RECORDS = 4095


class Identity(ctypes.Structure):
    """Whose control page this is, for those who look from outside. The Launcher writes it, once (launcher/identity.py).

    It stands first and stays as it is, so that a Launcher of another version is found, too. Text is UTF-8, filled up
    with NULs.
    """

    _fields_ = (
        # Written last: what has it is complete.
        ("magic", c_uint64),
        # Changes with the layout of what follows the identity.
        ("version", c_uint64),
        # As the Launcher itself sees it: in its own pid namespace.
        ("pid", c_uint64),
        # When that process began, in ticks since boot (/proc/PID/stat, 22): tells it from a later one of the same pid.
        ("process_start", c_uint64),
        # When this machine was opened: CLOCK_BOOTTIME in ns.
        ("opened_ns", c_uint64),
        # How often the Guest was restarted before.
        ("restarts", c_uint64),
        ("guest", c_uint8 * 64),
        ("engine", c_uint8 * 16),
        ("waker", c_uint8 * 64),
    )


class DeviceCounts(ctypes.Structure):
    """One device's counters, the Launcher's: its sources serviced, notifications taken, interrupts raised."""

    _fields_ = (
        ("name", c_uint8 * 16),
        ("serviced", c_uint64),
        ("notifies", c_uint64),
        ("interrupts", c_uint64),
    )


class ControlPage(ctypes.Structure):
    """What Launcher and Waker tell each other without a message. Every word is 64 bits and has one writer,
    but for the semaphore, which is the C library's.

    A group starts on its own cache line, so that one side's stores do not slow the other's.
    """

    _fields_ = (
        ("identity", Identity),
        # Set by whoever breaks the Guest, cleared by the vCPU's thread.
        ("break_word", c_uint64),
        ("_line0", c_uint64 * 7),
        # The Waker's: breaks made; times its strategy returned; doorbells of vrings answered; sources left alone for
        # want of a buffer.
        ("breaks", c_uint64),
        ("wakes", c_uint64),
        ("looks", c_uint64),
        ("starved", c_uint64),
        ("_line1", c_uint64 * 4),
        # The Launcher's: breaks taken; those that found nothing ready; exits; interrupts; devices serviced.
        ("taken", c_uint64),
        ("spurious", c_uint64),
        ("notifies", c_uint64),
        ("interrupts", c_uint64),
        ("serviced", c_uint64),
        # Whether to stamp (shared/trace.py). Set before the Waker starts.
        ("is_tracing", c_uint64),
        # How many Wakers died and were replaced.
        ("replaced", c_uint64),
        ("_line2", c_uint64),
        # One word per ring that a Waker looks at. The Launcher's: the index it has taken.
        ("taken_idx", c_uint64 * VRING_SLOTS),
        # The Waker's: the index it saw last when a doorbell rang, through its own mapping.
        ("looked_idx", c_uint64 * VRING_SLOTS),
        # A sem_t, of 32 bytes or less (shared/breakers/semaphore.py).
        ("semaphore", c_uint64 * 4),
        ("_line3", c_uint64 * 4),
        # The Launcher's: a slot for each device, in the order of the device page; the last is for all others.
        ("devices", DeviceCounts * DEVICE_SLOTS),
    )


class TraceLane(ctypes.Structure):
    """A ring of stamps with one writer: `count` stamps were made, the last TRACE_RECORDS of them are here.

    A record is the CLOCK_MONOTONIC time in ns, shifted left by 4, with the stage in the low four bits.
    """

    _fields_ = (("count", c_uint64), ("records", c_uint64 * TRACE_RECORDS))
