"""Where numbers come from: the first line of each file of measured data."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent


def output(*argv: str) -> str:
    """Return what a command says, or that it is unknown."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(program: str, schema: int, seed: int) -> dict[str, object]:
    """Return what was run, when, of which revision, and on what machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    is_dirty = output("git", "status", "--porcelain", "-uno") != ""
    return {
        "schema": schema,
        "kind": "run",
        "command": shlex.join([program, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "revision": output("git", "rev-parse", "--short=12", "HEAD") + ("+changes" if is_dirty else ""),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
