"""Binary layouts are pinned: a peer written in C, or a kernel, has the same sizes and offsets."""

from __future__ import annotations

import ctypes

import pytest

from launcher import identity
from shared import page
from shared.chain import DESCRIPTOR
from shared.structs import (
    DEVICE_SLOTS,
    TRACE_LANES,
    TRACE_RECORDS,
    VRING_SLOTS,
    ControlPage,
    DeviceCounts,
    DeviceDesc,
    Identity,
    TraceLane,
    VqConfig,
    VringAvailHead,
    VringDesc,
    VringUsedElem,
    VringUsedHead,
)
from shared.virtqueue import USED_ELEMENT

CACHE_LINE = 64


def offsets(struct: type[ctypes.Structure]) -> dict[str, tuple[int, int]]:
    fields = [name for name, *_ in struct._fields_ if not name.startswith("_")]
    return {name: (getattr(struct, name).offset, getattr(struct, name).size) for name in fields}


@pytest.mark.parametrize(
    ("struct", "size", "fields"),
    [
        # linux/virtio_ring.h
        (VringDesc, 16, {"addr": (0, 8), "len": (8, 4), "flags": (12, 2), "next": (14, 2)}),
        (VringAvailHead, 4, {"flags": (0, 2), "idx": (2, 2)}),
        (VringUsedHead, 4, {"flags": (0, 2), "idx": (2, 2)}),
        (VringUsedElem, 8, {"id": (0, 4), "len": (4, 4)}),
        # linux/lguest_launcher.h of 2.6.26
        (
            DeviceDesc,
            5,
            {"type": (0, 1), "num_vq": (1, 1), "feature_len": (2, 1), "config_len": (3, 1), "status": (4, 1)},
        ),
        (VqConfig, 8, {"num": (0, 2), "irq": (2, 2), "pfn": (4, 4)}),
    ],
)
def test_a_structure_of_others_has_their_layout(
    struct: type[ctypes.Structure], size: int, fields: dict[str, tuple[int, int]]
) -> None:
    assert ctypes.sizeof(struct) == size
    assert offsets(struct) == fields


def test_the_numbers_form_of_a_structure_is_the_structure() -> None:
    descriptor = VringDesc(0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xFF01)
    assert DESCRIPTOR.unpack(bytes(descriptor)) == (0x1122334455667788, 0x99AABBCC, 0xDDEE, 0xFF01)
    assert USED_ELEMENT.unpack(bytes(VringUsedElem(7, 9))) == (7, 9)


def test_the_control_page_is_words_that_no_other_field_shares() -> None:
    fields = offsets(ControlPage)
    assert all(offset % 8 == 0 and size % 8 == 0 for offset, size in fields.values())
    assert ctypes.sizeof(ControlPage) <= 4096
    assert fields["taken_idx"][1] == fields["looked_idx"][1] == 8 * VRING_SLOTS


def test_the_identity_stands_first_and_stays_as_it_is() -> None:
    """A Launcher of another version finds it there, whatever else has moved."""
    assert ControlPage.identity.offset == 0
    assert ctypes.sizeof(Identity) == 192
    assert offsets(Identity) == {
        "magic": (0, 8),
        "version": (8, 8),
        "pid": (16, 8),
        "process_start": (24, 8),
        "opened_ns": (32, 8),
        "restarts": (40, 8),
        "guest": (48, 64),
        "engine": (112, 16),
        "waker": (128, 64),
    }


# Pinned together: who reads the counters of a running Launcher trusts the version. Move one, and raise it.
LAYOUT_OF_VERSION = (1, 2432, {"breaks": 256, "taken": 320, "devices": 1472})


def test_the_version_stands_for_where_the_counters_are() -> None:
    version, size, places = LAYOUT_OF_VERSION
    assert version == identity.VERSION
    assert size == ctypes.sizeof(ControlPage)
    assert {name: offsets(ControlPage)[name][0] for name in places} == places
    assert offsets(DeviceCounts) == {"name": (0, 16), "serviced": (16, 8), "notifies": (24, 8), "interrupts": (32, 8)}
    assert offsets(ControlPage)["devices"][1] == DEVICE_SLOTS * ctypes.sizeof(DeviceCounts)


def test_each_writer_of_the_control_page_has_cache_lines_of_its_own() -> None:
    writers = [
        ("anybody's break", ["break_word"]),
        ("the Waker's counts", ["breaks", "wakes", "looks"]),
        ("whose it is", ["identity"]),
        ("the Launcher's counts", ["taken", "spurious", "notifies", "interrupts", "serviced", "replaced"]),
        ("the Launcher's indices", ["taken_idx"]),
        ("the Waker's indices", ["looked_idx"]),
        ("the C library's semaphore", ["semaphore"]),
        ("the Launcher's counts of devices", ["devices"]),
    ]
    fields = offsets(ControlPage)
    lines = [
        {at // CACHE_LINE for name in names for at in (fields[name][0], sum(fields[name]) - 1)} for _, names in writers
    ]
    for at, mine in enumerate(lines):
        assert all(not mine & others for others in lines[:at]), writers[at][0]
    assert all(fields[names[0]][0] % CACHE_LINE == 0 for _, names in writers)


def test_a_trace_lane_is_whole_pages() -> None:
    assert offsets(TraceLane) == {"count": (0, 8), "records": (8, 8 * TRACE_RECORDS)}
    assert ctypes.sizeof(TraceLane) % 4096 == 0
    control, lane = 4096, ctypes.sizeof(TraceLane)
    assert control + TRACE_LANES * lane == page.SIZE
