"""One Waker, measured: a Launcher in a fresh process that reads what a stimulus rings, as the C arms do.

    launcher_arm.py PIPE_FD RECORD_FD SAMPLES IDLE_FDS ENGINE GUEST WAKER [trace]

It speaks the arms' protocol (yardstick.h): "r" on standard output when the Waker watches, "d" when all is read, and it
stays until standard input ends. With `trace`, the stamps of all stages follow as JSON. Exit code 77 says that this
Waker cannot run here; the reason is on standard error.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from pathlib import Path
from time import monotonic_ns

# The tree that is measured is the one in which this file lies, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launcher.config import RunConfig
from launcher.devices.pulse import Pulse
from launcher.machine import Machine, open_machine
from shared.errors import LabError
from shared.trace import LAUNCHER_LANE, WAKER_LANE, Trace
from waker import Source

CANNOT_RUN = 77
_RING = struct.Struct("<QQ")
_WORDS_PER_SAMPLE = 3


class Rings(Pulse):
    """The pipe that the stimulus rings, and files that nobody does."""

    def __init__(self, pipe: int, record: memoryview, idle_fds: int, kind: str) -> None:
        super().__init__(count=0, kind=kind)
        self._record = record
        source = Source(pipe, "rings")
        self.sources.append(source)
        self._writers[source] = pipe
        for _ in range(idle_fds):
            self.open()

    def on_ready(self, source: Source) -> bool:
        """Read what was rung, and note when."""
        data = os.read(source.fd, 1024)
        read_ns = monotonic_ns()
        record, count = self._record, self._record[0]
        for sent_ns, intended_ns in _RING.iter_unpack(data):
            at = 1 + count * _WORDS_PER_SAMPLE
            if at < len(record):
                record[at], record[at + 1], record[at + 2] = sent_ns, intended_ns, read_ns
                count += 1
        record[0] = count
        self._wants_interrupt = True
        return True


def main(argv: list[str]) -> int:
    """Be the arm; return the exit code."""
    pipe, record_fd, samples, idle_fds = map(int, argv[:4])
    engine, guest, waker_name = argv[4:7]
    is_tracing = argv[7:] == ["trace"]
    with mmap.mmap(record_fd, 8 * (1 + samples * _WORDS_PER_SAMPLE)) as mapping, memoryview(mapping) as content:
        with content.cast("Q") as record:
            kind = "pipe" if waker_name.startswith("inline/sigio") else "eventfd"  # which send no SIGIO
            config = RunConfig(image=guest, engine=engine, waker=waker_name, memory_mib=2, is_tracing=is_tracing)
            try:
                with open_machine(config, lambda _memory, _page: [Rings(pipe, record, idle_fds, kind)]) as machine:
                    os.write(1, b"r")
                    while record[0] < samples:
                        machine.loop.run_once()
                    os.write(1, b"d")
                    while os.read(0, 1):
                        pass
                    if is_tracing:
                        print(json.dumps(_stamps(machine)), flush=True)
            except LabError as error:
                print(error, file=sys.stderr)
                return CANNOT_RUN
    return 0


def _stamps(machine: Machine) -> list[tuple[str, int]]:
    lanes = (Trace(machine.page, lane).stamps() for lane in (WAKER_LANE, LAUNCHER_LANE))
    return [(stamp.stage.name, stamp.time_ns) for lane in lanes for stamp in lane]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
