"""What the doctor says of machines that this one is not: each warning, its remedy, and the exit code."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

import waker
from launcher import engines
from launcher.bench import doctor
from launcher.bench.command import BUSY_PERCENT
from launcher.bench.doctor import Finding
from launcher.bench.measure import provenance, yardstick
from launcher.bench.measure.provenance import Ticks

URING, NO_URING = [name for name in waker.names() if "uring" in name], "io_uring is switched off"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give it a clock of its own: a look at it takes 10 us, a sleep as long as it says."""
    pass_time(monkeypatch)


def pass_time(monkeypatch: pytest.MonkeyPatch, *, look_ns: int = 10_000, late_ns: int = 0) -> None:
    now_ns = [0]

    def look() -> int:
        now_ns[0] += look_ns
        return now_ns[0]

    def sleep(seconds: float) -> None:
        now_ns[0] += int(seconds * 1e9) + late_ns

    monkeypatch.setattr(doctor, "monotonic_ns", look)
    monkeypatch.setattr(doctor, "sleep", sleep)


def found(check: str) -> list[Finding]:
    return [finding for finding in doctor.examine() if finding.check == check]


def only(check: str) -> Finding:
    (finding,) = found(check)
    return finding


def lacks(monkeypatch: pytest.MonkeyPatch, reasons: dict[str, str]) -> None:
    monkeypatch.setattr(waker, "why_not", reasons.get)


def engines_lack(monkeypatch: pytest.MonkeyPatch, reasons: dict[str, str]) -> None:
    real = engines.get
    monkeypatch.setattr(engines, "get", lambda name: replace(real(name), why_not=lambda: reasons.get(name)))


def ticks(monkeypatch: pytest.MonkeyPatch, *, busy: int = 0, steal: int = 0) -> None:
    numbers = count()

    def now() -> Ticks:
        n = next(numbers)
        return Ticks(idle=n * (100 - busy), steal=n * steal, all=n * 100)

    monkeypatch.setattr(Ticks, "now", now)


def limited(monkeypatch: pytest.MonkeyPatch, which: int, hard: int) -> None:
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda what: (hard, hard) if what == which else real(what))


def test_where_all_is_well_nothing_is_minded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "kvm_exit_ns", lambda: 1500.0)
    monkeypatch.setattr(provenance, "governor", lambda: "performance")
    monkeypatch.setattr(yardstick, "why_not", lambda _program: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    engines_lack(monkeypatch, {})
    lacks(monkeypatch, {})
    ticks(monkeypatch, busy=int(BUSY_PERCENT) - 1, steal=2)
    limited(monkeypatch, resource.RLIMIT_NOFILE, 1 << 20)
    limited(monkeypatch, resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY)
    assert [finding for finding in doctor.examine() if finding.level != doctor.PASS] == []
    assert only("wakers").found == f"all {len(waker.names())} can run"
    assert doctor.main(is_json=True) == 0


@pytest.mark.parametrize(
    ("change", "check", "words", "remedy"),
    [
        (lambda p: engines_lack(p, {"kvm": "not here"}), "engine kvm", "not here", "group kvm"),
        (
            lambda p: engines_lack(p, {"unicorn": "not here"}),
            "engine unicorn",
            "not here",
            "pip install 'lguest-launcher[unicorn]'",
        ),
        (lambda p: p.setattr(provenance, "kvm_exit_ns", lambda: 8600.0), "kvm exits", "8.6 us", "bare metal"),
        (lambda p: lacks(p, {"process/poll": "no"}), "wakers", "process/poll: no", "one of the others"),
        (lambda p: lacks(p, dict.fromkeys(URING, NO_URING)), "io_uring", NO_URING, "io_uring_disabled=0"),
        (lambda p: limited(p, resource.RLIMIT_NOFILE, 1024), "open files", "at most 1024", "LimitNOFILE="),
        (lambda p: limited(p, resource.RLIMIT_MEMLOCK, 65536), "locked memory", "64 KiB", "ulimit -l"),
        (lambda p: p.setattr("os.sched_getaffinity", lambda _: {0}), "processors", "1 of", "give it two"),
        (lambda p: p.setattr(provenance, "governor", lambda: "powersave"), "governor", "powersave", "cpupower"),
        (lambda p: ticks(p, steal=3), "steal", "3.0 % now", "measure longer, or elsewhere"),
        (lambda p: ticks(p, busy=16), "load", "16 %", "wait until it is quiet"),
        (lambda p: pass_time(p, look_ns=30_000), "jitter", "lost 100.00 %", "runs on this processor"),
        (lambda p: pass_time(p, late_ns=300_000), "timer", "310 us late, one in a hundred 310 us", "lead_us"),
    ],
)
def test_each_thing_that_is_minded_has_a_remedy(
    change: Callable[[pytest.MonkeyPatch], None],
    check: str,
    words: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(monkeypatch)
    finding = only(check)
    assert finding.level == doctor.WARN
    assert words in finding.found
    assert remedy in finding.remedy
    assert doctor.main(is_json=False) == 0  # it costs precision or a Waker, and no more
    assert f"WARN {check}: " in capsys.readouterr().out


def test_what_io_uring_costs_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks(monkeypatch, dict.fromkeys(URING, NO_URING))
    assert [finding.check for finding in doctor.examine() if NO_URING in finding.found] == ["io_uring"]
    assert only("io_uring").found == f"{', '.join(URING)}: {NO_URING}"
    lacks(monkeypatch, {name: NO_URING if name in URING else "no" for name in waker.names()})
    assert [finding.level for finding in found("wakers")] == [doctor.WARN]


def test_without_a_compiler_there_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/cc")
    assert only("C compiler").level == doctor.WARN
    assert "/no/such/cc" in only("C compiler").found
    assert "no ratio" in only("C compiler").remedy
    monkeypatch.setattr(yardstick, "why_not", "it does not compile {}".format)
    assert len(found("C compiler")) == len(yardstick.PROGRAMS)


def test_a_check_that_cannot_look_is_a_finding_with_a_remedy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Ticks:
        raise PermissionError(13, "Permission denied", "/proc/stat")

    monkeypatch.setattr(Ticks, "now", refuse)
    finding = only("others")
    assert finding.level == doctor.WARN
    assert "/proc/stat" in finding.found
    assert finding.remedy == "let this user see it, or measure without knowing it"
    assert found("python")  # and those after it go on


@pytest.mark.parametrize("what", ["Waker", "engine"])
def test_where_nothing_can_run_it_fails_and_says_why(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "Waker":
        lacks(monkeypatch, dict.fromkeys(waker.names(), "seccomp forbids it"))
    else:
        engines_lack(monkeypatch, dict.fromkeys(engines.names(), "seccomp forbids it"))
    assert doctor.main(is_json=True) == 77
    *_, last, end = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert end == {"kind": "doctor", "exit_code": 77, "next": "launcher list engines"}
    assert (last["kind"], last["level"]) == ("finding", "FAIL")
    assert last["found"] == f"nothing can be measured: no {what} can run here (seccomp forbids it)"
    assert last["remedy"]


def test_a_check_of_one_machine_says_what_a_p99_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    late_ns = iter([*[0] * 296, *[500_000] * 4])
    slept: list[float] = []
    now_ns = [0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_ns[0] += int(seconds * 1e9) + (next(late_ns) if seconds < 0.01 else 0)

    def look() -> int:
        now_ns[0] += 1000
        return now_ns[0]

    monkeypatch.setattr(doctor, "sleep", sleep)
    monkeypatch.setattr(doctor, "monotonic_ns", look)
    assert only("timer").found == "a sleep of 200 us ends 1 us late, one in a hundred 501 us"
    assert len([seconds for seconds in slept if seconds < 0.01]) >= 299


def test_findings_come_as_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", doctor.PASS, "fine")
        raise OSError("then it broke")

    monkeypatch.setattr(doctor, "_CHECKS", (check,))
    assert [finding.level for finding in doctor.examine()] == [doctor.PASS, doctor.WARN]


def test_two_threads_of_one_core_are_not_two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "is_one_core", lambda cpus: len(cpus) == 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    finding = only("processors")
    assert (finding.level, "the first two are one core" in finding.found) == ("WARN", True)


@pytest.mark.parametrize(("quota", "level"), [(None, None), (2.0, None), (1.5, "WARN")])
def test_a_quota_of_less_than_all_processors_is_minded(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, level: str | None
) -> None:
    monkeypatch.setattr(provenance, "quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    assert [finding.level for finding in found("quota")] == ([level] if level else [])
