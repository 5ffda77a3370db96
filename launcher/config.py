"""What a run is made of: frozen values, checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from launcher.devices import tap
from shared.errors import UsageError
from shared.memory import PAGE_SIZE

MIN_MEMORY_MIB = 1
MAX_MEMORY_MIB = 3072
"""The Guests are 32-bit; the device page must stay below the addresses that KVM keeps for itself near 4 GiB."""

DEFAULT_WAKER = "process/select"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One `launcher run`. Raises `UsageError` for what no machine can be made of."""

    image: str = "echo"
    engine: str = "auto"
    waker: str = DEFAULT_WAKER
    memory_mib: int = 16
    memory_backing: str = "memfd"
    is_tracing: bool = False
    args: tuple[str, ...] = ()
    initrd: str | None = None
    has_rng: bool = False
    rng_file: str | None = None
    tunnet: tuple[str, ...] = ()
    restarts: int = 0
    block: tuple[str, ...] = ()
    block_io: str = "thread"

    @property
    def command_line(self) -> bytes:
        """Return the Guest's arguments as it finds them: how many in 32 bits, then each ended by a NUL."""
        return len(self.args).to_bytes(4, "little") + b"".join(os.fsencode(arg) + b"\0" for arg in self.args)

    def __post_init__(self) -> None:
        if len(self.command_line) > PAGE_SIZE:
            raise UsageError(f"arguments of {len(self.command_line)} bytes are over {PAGE_SIZE}; give the Guest fewer")
        if not self.image:
            raise UsageError("image '' is no name; give a built-in Guest, a file of machine code or a .py file")
        if self.initrd == "":
            raise UsageError("initrd '' is no name; give the file of an initrd")
        for tunnet in self.tunnet:
            tap.parse(tunnet)
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB:
            raise UsageError(
                f"memory of {self.memory_mib} MiB cannot be made; give --memory {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}"
            )
