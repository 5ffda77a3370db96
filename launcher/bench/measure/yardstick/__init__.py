"""The yardstick: the Wakers' algorithms in plain C, compiled on this machine where there is a compiler.

The programs land in the XDG cache, named by what they are made of: sources, compiler, flags. So an installed wheel
needs no writable folder, a change is compiled anew, and two at once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from shared.errors import CannotRunError

HERE = Path(__file__).resolve().parent
ENGINE = "c"
PREFIX = f"{ENGINE}:"
PROGRAMS = tuple(sorted(path.stem for path in HERE.glob("*.c")))

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread")
_NATURAL_BASES = {
    "thread": "thread_select",
    "process": "process_select",
    "fork": "process_select",
    "spin": "direct_spin",  # the harness alone: a poller against a poller, else nothing could be too slow
}


def compiler() -> str | None:
    """Return the path of the C compiler: `cc`, or what CC names; None when there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build() -> Path:
    """Compile what is not compiled yet, and return the folder of the programs.

    Raises `CannotRunError` where there is no compiler, or it fails.
    """
    cc = compiler()
    if cc is None:
        raise CannotRunError(f"there is no C compiler ({os.environ.get('CC', 'cc')}); install one, or name it in CC")
    made_of = hashlib.sha256(cc.encode() + repr(_FLAGS).encode())
    for path in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        made_of.update(path.name.encode() + path.read_bytes())
    folder = _cache() / f"yardstick-{made_of.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        if not (folder / name).exists():
            _compile(cc, HERE / f"{name}.c", folder / name)
    return folder


def base_of(waker_name: str, case_yardsticks: tuple[str, ...]) -> str | None:
    """Return the program that does in C what this Waker does, as far as the case has one."""
    place = waker_name.partition("/")[0]
    wanted = [f"{PREFIX}{_NATURAL_BASES.get(place, 'thread_select')}", f"{PREFIX}kvm_thread_select"]
    return next((name for name in wanted if name in case_yardsticks), None)


def _compile(cc: str, source: Path, program: Path) -> None:
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run([cc, *_FLAGS, "-o", unfinished, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRunError(f"{cc} cannot compile {source}: {done.stderr.strip().splitlines()[-1:]}")
    unfinished.replace(program)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # XDG base directory specification: a path that is not absolute is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "lguest-launcher"
