"""The yardstick: the Wakers' algorithms in plain C, compiled on this machine where there is a compiler.

The programs land in the XDG cache, named by what they are made of: sources, compiler, flags. So an installed wheel
needs no writable folder, a change is compiled anew, and two at once do not disturb each other. Each is compiled by
itself: where one cannot be (KVM's are for x86), the others can.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from shared.errors import CannotRunError

HERE = Path(__file__).resolve().parent
ENGINE = "c"
PREFIX = f"{ENGINE}:"
PROGRAMS = tuple(sorted(path.stem for path in HERE.glob("*.c")))

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread")
# By place; the later ones are for engine kvm alone, whose exits they contain.
_BASES = {
    "thread": ("thread_select", "kvm_thread_select"),
    "process": ("process_select", "kvm_thread_select"),  # no program breaks KVM's Guest from another process
    "fork": ("process_select", "kvm_thread_select"),
    "inline": ("direct", "kvm_sigio"),  # nobody waits but the vCPU's own thread
    "spin": ("direct_spin",),  # the harness alone: a poller against a poller, else nothing could be too slow
}
_ELSEWHERE = "set XDG_CACHE_HOME to a folder where programs can be kept and run"


def compiler() -> tuple[str, ...]:
    """Return the command of the C compiler: `cc`, or what CC says, arguments included; nothing when there is none."""
    try:
        name, *arguments = shlex.split(_named_compiler())
    except ValueError:  # nothing in it, or a quotation mark without another one
        return ()
    path = shutil.which(name)
    return () if path is None else (path, *arguments)


def compiler_version() -> str:
    """Return the first line of what the C compiler says of itself, or `none`."""
    cc = compiler()
    try:
        return _version(cc) if cc else "none"
    except CannotRunError:
        return "none"


def build(name: str) -> Path:
    """Return the program of this name, compiled if it is not yet.

    Raises `CannotRunError` where there is no compiler, or it fails, or what it makes cannot be kept or run.
    """
    cc = compiler()
    if not cc:
        raise CannotRunError(f"there is no C compiler ({_named_compiler()}); install one, or name it in CC")
    made_of = hashlib.sha256(repr((cc, _version(cc), _FLAGS)).encode())
    for path in (HERE / f"{name}.c", *sorted(HERE.glob("*.h"))):
        made_of.update(path.name.encode() + path.read_bytes())
    folder = _cache()
    program = folder / f"yardstick-{made_of.hexdigest()[:16]}" / name
    try:
        if not program.exists():
            program.parent.mkdir(parents=True, exist_ok=True)
            _compile(cc, HERE / f"{name}.c", program)
    except OSError as error:
        raise CannotRunError(f"{folder} cannot hold what is compiled ({error.strerror}); {_ELSEWHERE}") from error
    if not os.access(program, os.X_OK):
        raise CannotRunError(f"{folder} may hold programs, but not run them (is it noexec?); {_ELSEWHERE}")
    return program


def why_not(name: str) -> str | None:
    """Return why there can be no program of this name here, or None."""
    try:
        build(name)
    except CannotRunError as reason:
        return str(reason)
    return None


def base_of(waker_name: str, engine_name: str, case_yardsticks: tuple[str, ...]) -> str | None:
    """Return what stands for this Waker in C: the program of the same place, whatever the strategy, if there is one."""
    programs = _BASES.get(waker_name.partition("/")[0], ())
    if engine_name != "kvm":
        programs = tuple(name for name in programs if not name.startswith("kvm_"))
    wanted = [f"{PREFIX}{name}" for name in programs]
    return next((name for name in wanted if name in case_yardsticks), None)


def _named_compiler() -> str:
    return os.environ.get("CC") or "cc"


def _version(cc: tuple[str, ...]) -> str:
    return _asked_version(cc, Path(cc[0]).stat().st_mtime_ns)


@cache
def _asked_version(cc: tuple[str, ...], _modified_ns: int) -> str:
    """Ask the compiler, once: each round of a program wants to know."""
    try:
        said = subprocess.run([*cc, "--version"], capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError as error:
        raise CannotRunError(f"{shlex.join(cc)} cannot be started ({error.strerror}); name a compiler in CC") from error
    return said.strip().partition("\n")[0] or "unknown"


def _compile(cc: tuple[str, ...], source: Path, program: Path) -> None:
    with TemporaryDirectory(dir=program.parent) as folder:  # somebody else may be about to run it
        unfinished = Path(folder) / program.name
        argv = [*cc, *_FLAGS, "-o", str(unfinished), str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it left with {done.returncode}"]
            why = next((line for line in lines if "error:" in line), lines[-1])
            remedy = "install what it misses, or name another compiler in CC"
            raise CannotRunError(f"{shlex.join(cc)} cannot compile the yardstick ({why.strip()}); {remedy}")
        unfinished.replace(program)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # XDG base directory specification: a path that is not absolute is to be ignored.
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "lguest-launcher"
    except RuntimeError:
        raise CannotRunError(f"there is no home folder to keep what is compiled; {_ELSEWHERE}") from None
