"""Where and with what something was measured: what it takes to believe it, or to refuse to compare it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from launcher import engines
from launcher.bench.measure import yardstick
from launcher.bench.measure.spec import ROOT

_GIT_POINTS = frozenset(
    (
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE"),
        *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
    )
)
_TELLING = ("PYTHON", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
_CGROUPS = Path("/sys/fs/cgroup")
_WHEELS = ("numpy", "psutil", "rich", "posix_ipc", "unicorn")


def host(seed: int, tree: Path = ROOT) -> dict[str, Any]:
    """Return what is known of this machine, of the Python here, and of the tree that is measured."""
    return {
        "machine": platform.node(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count() or 1,
        "quota": quota(),
        "placement": sorted(os.sched_getaffinity(0)),
        "virtualisation": virtualisation(),
        "nested": nested(),
        "nesting_module": nesting_module(),
        "kvm_exit_ns": kvm_exit_ns(),
        "governor": governor(),
        "steal_percent": round(Ticks.now().steal_percent(), 2),
        "load": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_build()[1]})",
        "gil": has_gil(),
        "environment": environment(),
        "versions": versions(),
        "cc": yardstick.compiler_version(),
        "git": revision(tree),
        "seed": seed,
    }


class Ticks(NamedTuple):
    """What all processors have done since the machine started, in ticks."""

    idle: int
    steal: int
    all: int

    @classmethod
    def now(cls) -> Ticks:
        """Read /proc/stat: user nice system idle iowait irq softirq steal."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(ticks[3] + ticks[4], ticks[7], sum(ticks))

    def since(self, before: Ticks) -> Ticks:
        """Return what was done since then."""
        return Ticks(*(now - then for now, then in zip(self, before, strict=True)))

    def steal_percent(self) -> float:
        """Return how much of the time the host gave to others."""
        return 100 * self.steal / max(1, self.all)

    def counts(self) -> dict[str, int]:
        """Return what a round tells of the machine: of all processors' time, what they worked, and what was stolen."""
        tick_us = 1_000_000 // os.sysconf("SC_CLK_TCK")
        return {"busy_us": (self.all - self.idle - self.steal) * tick_us, "steal_us": self.steal * tick_us}

    def busy(self) -> float:
        """Return the share of the time in which processors were busy, 0 to 1."""
        return 1 - self.idle / max(1, self.all)


def busy_percent(look_s: float = 0.2) -> float:
    """Return how busy the processors are just now, while we look on."""
    before = Ticks.now()
    sleep(look_s)
    return 100 * Ticks.now().since(before).busy()


def cpu_model() -> str:
    """Return the processor's name, as far as the kernel knows it."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def virtualisation() -> str:
    """Return `none`, or what says that this machine is a virtual one: the hypervisor's name, if it gives it."""
    flags = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    if "hypervisor" not in flags:
        return "none"
    name = " ".join(filter(None, (_word("/sys/class/dmi/id/sys_vendor"), _word("/sys/class/dmi/id/product_name"))))
    return name or _word("/sys/hypervisor/type") or "unknown"


def nested() -> str:
    """Return whether a KVM here would be one inside another machine: `yes`, `no`, or `unknown`."""
    if not Path("/dev/kvm").exists():
        return "no KVM"
    return "yes" if virtualisation() != "none" else "no"


def nesting_module() -> str | None:
    """Return what KVM's module says of nesting Guests of its own (kvm_intel, kvm_amd), or None when it says nothing."""
    return next(
        (word for name in ("kvm_intel", "kvm_amd") if (word := _word(f"/sys/module/{name}/parameters/nested"))), None
    )


def quota() -> float | None:
    """Return how many processors' time this process may use at most, or None where nobody says (cgroup v2: cpu.max)."""
    path = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "")
    folders = [_CGROUPS / path.strip("/"), *(_CGROUPS / path.strip("/")).parents]
    limits = []
    for folder in folders:
        with suppress(ValueError, ArithmeticError):  # of `max`, of nothing, or of what no kernel of today says
            most, period = map(int, _word(folder / "cpu.max").split() if folder.is_relative_to(_CGROUPS) else ())
            limits.append(most / period)
    return min(limits, default=None)


def is_one_core(cpus: Collection[int]) -> bool:
    """Whether these processors are threads of one core, as far as the kernel says what they are."""
    cores = {_word(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    return len(cpus) > 1 and len(cores) == 1 and "" not in cores


def kvm_exit_ns() -> float | None:
    """Return how long an exit of this KVM takes, or None where there is none: fast is real, slow is nested or worse."""
    if engines.get("kvm").why_not() is not None:
        return None
    from launcher.engines.kvm.speed import exit_ns

    return exit_ns()


def governor() -> str:
    """Return how the kernel sets the processors' frequency, or `unknown` where that is not its business."""
    found = {_word(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(filter(None, found))) or "unknown"


def has_gil() -> bool:
    """Whether this Python has the lock that lets one thread run at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def environment() -> dict[str, str]:
    """Return the variables that change how Python runs or where memory comes from: what is measured inherits them."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_TELLING)}


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, those that are there."""
    found = {}
    for name in _WHEELS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def revision(tree: Path) -> str:
    """Return the git revision of a tree, with `+changes` where it is not clean, or `unknown`."""
    env = git_environment()
    head = _output("git", "-C", str(tree), "rev-parse", "--short=12", "HEAD", env=env)
    is_dirty = bool(head) and _output("git", "-C", str(tree), "status", "--porcelain", "-uno", env=env) != ""
    return (head or "unknown") + ("+changes" if is_dirty else "")


def git_environment() -> dict[str, str]:
    """Return an environment in which git looks at the folder that it is given.

    In a hook of git's (before a push, say) variables point at that repository's folder and index, and a checkout
    elsewhere would be written into them.
    """
    return {name: value for name, value in os.environ.items() if name not in _GIT_POINTS}


def _output(*argv: str, env: dict[str, str] | None = None) -> str:
    with suppress(OSError):
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=env).stdout.strip()
    return ""


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text().splitlines()
    return []


def _word(path: str | Path) -> str:
    with suppress(OSError):
        return Path(path).read_text().strip()
    return ""
