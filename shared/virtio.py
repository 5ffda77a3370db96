"""VirtIO's numbers, as far as the laboratory speaks it; no logic.

Feature bits are bit *numbers*: `features >> RING_EVENT_IDX & 1`.
"""

from __future__ import annotations

# Descriptor flags (VirtIO 1.3, 2.7.5).
DESC_F_NEXT = 1  # the chain goes on at `next`
DESC_F_WRITE = 2  # the device writes this buffer; without it, the device reads it
DESC_F_INDIRECT = 4  # the buffer is a table of descriptors

# Notification suppression without EVENT_IDX: hints to the other side (VirtIO 1.3, 2.7.7 and 2.7.10).
AVAIL_F_NO_INTERRUPT = 1  # the driver's: do not interrupt me
USED_F_NO_NOTIFY = 1  # the device's: do not kick me

# The largest ring (VirtIO 1.3, 2.7), and the longest chain in bytes (2.7.5.2).
MAX_QUEUE_SIZE = 32768
MAX_CHAIN_BYTES = 1 << 32

# Feature bits (VirtIO 1.3, 6; NOTIFY_ON_EMPTY and ANY_LAYOUT are legacy, 6.3; NET_MAC is of 5.1.3).
NET_MAC = 5  # the device has an address for the driver
NOTIFY_ON_EMPTY = 24
ANY_LAYOUT = 27  # a header needs no descriptor of its own
RING_INDIRECT_DESC = 28
RING_EVENT_IDX = 29
RING_FEATURES = 1 << RING_INDIRECT_DESC | 1 << RING_EVENT_IDX
"""What both halves here can do; a mask, unlike the bits above."""
VERSION_1 = 32

# Device status bits (VirtIO 1.3, 2.1). Writing 0 resets the device.
ACKNOWLEDGE = 1
DRIVER = 2
DRIVER_OK = 4
FAILED = 128

# Device types (VirtIO 1.3, 5).
NET = 1
BLOCK = 2
CONSOLE = 3
RNG = 4
# The laboratory's own, far above those that are given out.
PULSE = 0xF0
VRING = 0xF1

# Block devices: feature bits (VirtIO 1.3, 5.2.3), request types and status bytes (5.2.6).
BLK_SEG_MAX = 2  # the device says how many buffers a request may have
BLK_RO = 5  # the device cannot be written
BLK_FLUSH = 9  # the device keeps written data in a cache until it is told to flush
BLK_T_IN = 0
BLK_T_OUT = 1
BLK_T_FLUSH = 4
BLK_T_GET_ID = 8
BLK_ID_BYTES = 20
BLK_S_OK = 0
BLK_S_IOERR = 1
BLK_S_UNSUPP = 2
