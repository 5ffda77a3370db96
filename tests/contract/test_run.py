"""`launcher run` as a person has it: at a terminal, in a pipeline, interrupted, and with a Waker that dies.

Every Waker on every engine that runs here. Each session must put its terminal back as it was, and leave no process
and no name behind (tests/support/sessions.py).
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import waker
from launcher import engines
from tests.support.sessions import (
    LAUNCHER,
    PAIRS,
    PATIENCE_S,
    SESSION_WAKERS,
    environment,
    last_sentence,
    no_new_names,
    run_launcher,
    session,
    skip_unless_it_runs,
)

every_pair = pytest.mark.parametrize(("waker_name", "engine"), PAIRS)
every_waker = pytest.mark.parametrize("waker_name", SESSION_WAKERS)
END = b"\x04"
CTRL_C = b"\x03"


def arguments(waker_name: str, engine: str, guest: str = "echo") -> list[str]:
    skip_unless_it_runs(waker_name, engine)
    return ["run", "--waker", waker_name, "--engine", engine, guest]


# ---- At a terminal ----


@every_pair
def test_what_is_typed_is_echoed_and_ctrl_d_ends_it(waker_name: str, engine: str) -> None:
    with session(*arguments(waker_name, engine)) as at:
        at.wait_until_it_runs()
        assert at.is_raw()
        for line in (b"hello\n", b"are you there?\n", "käse\n".encode()):
            at.type(line)
            at.expect(line.replace(b"\n", b"\r\n"))
        at.type(END)
        assert at.finish() == 0
        assert at.shown == b""
        assert at.said.count(b"\n") == 1


@every_waker
def test_what_is_typed_before_the_guest_is_there_is_echoed_too(waker_name: str) -> None:
    # The terminal itself shows what is typed before it is raw; what the Guest sends back goes elsewhere here.
    echoed, output = os.pipe()
    try:
        with session(*arguments(waker_name, "python"), output=output) as at:
            at.type(b"too early\n")
            at.wait_until_it_runs()
            at.type(b"and on time" + END)
            assert at.finish() == 0
        assert os.read(echoed, 100) == b"too early\nand on time"
    finally:
        os.close(echoed)
        os.close(output)


@every_pair
def test_the_terminal_is_put_back_after_three_ctrl_c(waker_name: str, engine: str) -> None:
    with session(*arguments(waker_name, engine)) as at:
        at.wait_until_it_runs()
        at.type(CTRL_C * 3)
        assert at.finish() == 130
        assert at.sentence() == "stopped by three ^C within a second"


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("guest", ["idle", "spin"])
def test_three_ctrl_c_leave_a_guest_that_takes_no_input(engine: str, guest: str) -> None:
    skip_unless_it_runs("thread/select", engine)
    with session(*arguments("thread/select", engine, guest)) as at:
        at.wait_until_it_runs()
        at.type(CTRL_C * 3)
        assert at.finish() == 130


GUESTS_THAT_NEVER_YIELD = {
    "computes": "def run(cpu):\n    while True: pass\n    yield\n",
    "swallows": (
        "def run(cpu):\n    while True:\n        try:\n            while True: pass\n"
        "        except Exception: pass\n    yield\n"
    ),
}


@pytest.mark.parametrize("code", GUESTS_THAT_NEVER_YIELD.values(), ids=GUESTS_THAT_NEVER_YIELD)
def test_a_second_signal_ends_a_guest_in_python_that_never_yields(code: str, tmp_path: Path) -> None:
    guest = tmp_path / "guest.py"
    guest.write_text(code)
    with session("run", "--waker", "process/select", str(guest)) as at:
        at.wait_until_it_runs()
        at.process.send_signal(signal.SIGTERM)
        at.process.send_signal(signal.SIGINT)
        assert at.finish() == 130


@every_pair
@pytest.mark.parametrize("guest", ["echo", "spin"])
def test_the_terminal_is_put_back_after_sigterm(waker_name: str, engine: str, guest: str) -> None:
    with session(*arguments(waker_name, engine, guest)) as at:
        at.wait_until_it_runs()
        at.process.send_signal(signal.SIGTERM)
        assert at.finish() == 130
        assert at.sentence() == "stopped by SIGTERM"


@every_waker
@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGHUP])
def test_the_terminal_is_put_back_after_other_signals_that_ask_to_stop(waker_name: str, signo: signal.Signals) -> None:
    with session(*arguments(waker_name, "python", "idle")) as at:
        at.wait_until_it_runs()
        at.process.send_signal(signo)
        assert at.finish() == 130
        assert at.sentence() == f"stopped by {signo.name}"


@every_waker
def test_a_signal_to_the_whole_group_stops_it_in_order(waker_name: str) -> None:
    with session(*arguments(waker_name, "python")) as at:
        at.wait_until_it_runs()
        os.killpg(at.process.pid, signal.SIGINT)
        assert at.finish() == 130
        assert at.sentence() == "stopped by SIGINT"


def test_a_signal_while_it_starts_still_puts_the_terminal_back() -> None:
    for _ in range(5):
        with session("run", "--engine", "python", "idle") as at:
            while not at.is_raw():
                select.select([], [], [], 0.001)
            at.process.send_signal(signal.SIGTERM)
            assert at.finish() == 130


@every_waker
def test_a_terminal_that_hangs_up_ends_it(waker_name: str) -> None:
    with session(*arguments(waker_name, "python")) as at:
        at.wait_until_it_runs()
        at.hang_up()
        assert at.finish() in (0, 130)  # the end of the input, or SIGHUP: whichever is seen first


def test_output_that_nobody_reads_can_still_be_interrupted() -> None:
    with session("run", "--engine", "python") as at:
        at.wait_until_it_runs()
        at.type_without_reading(most=100_000)
        at.process.send_signal(signal.SIGTERM)
        assert at.process.wait(PATIENCE_S) == 130
        at.finish()


@every_pair
def test_a_guest_that_crashes_is_one_sentence(waker_name: str, engine: str, tmp_path: Path) -> None:
    if engine != "python":
        pytest.skip("tests/kvm has machine code that crashes")
    guest = tmp_path / "crash.py"
    guest.write_text("from launcher.engines.python import panic\ndef run(cpu):\n    panic('on purpose')\n    yield\n")
    with session(*arguments(waker_name, engine, str(guest))) as at:
        assert at.finish() == 1
        assert at.sentence() == f"guest {guest} died: on purpose"


@every_pair
def test_killing_the_waker_while_typing_loses_nothing(waker_name: str, engine: str) -> None:
    if waker.parse(waker_name).place in ("thread", "inline"):
        pytest.skip("it has no process to kill; check's W10 does it from inside")
    with session(*arguments(waker_name, engine)) as at:
        at.wait_until_it_runs()
        killed = 0
        for number in range(5):
            child = at.wait_for_child(other_than=killed)
            # Typed when the child was there already: to come back, it must be watching.
            at.type(b"?")
            at.expect(b"?")
            at.type(f"before {number}.".encode())
            child.kill()
            killed = child.pid
            at.type(f"after {number}.".encode())
            at.expect(f"before {number}.after {number}.".encode())
        at.type(END)
        assert at.finish() == 0


# ---- In a pipeline ----


def without_eot(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count).replace(END, b"\x05")


@pytest.mark.parametrize(
    ("waker_name", "engine", "kind"),
    # No engine knows what the console reads from.
    [(*pair, kind) for pair in PAIRS for kind in ("pipe", "file") if kind == "pipe" or "python" in pair],
)
def test_a_mebibyte_comes_back_byte_for_byte(waker_name: str, engine: str, kind: str, tmp_path: Path) -> None:
    args = arguments(waker_name, engine)
    data = without_eot(1 << (20 if engine == "python" else 18), seed=1)
    if kind == "pipe":
        done = run_launcher(*args, input=data)
    else:
        path = tmp_path / "input"
        path.write_bytes(data)
        with path.open("rb") as file:
            done = run_launcher(*args, stdin=file)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr.count(b"\n") == 1


@every_pair
def test_what_comes_after_an_eot_is_not_sent_back(waker_name: str, engine: str) -> None:
    done = run_launcher(*arguments(waker_name, engine), input=b"before\x04after")
    assert done.returncode == 0
    assert done.stdout == b"before"


@every_pair
def test_no_input_at_all_is_an_orderly_end(waker_name: str, engine: str) -> None:
    done = run_launcher(*arguments(waker_name, engine))
    assert (done.returncode, done.stdout) == (0, b"")


def with_closed(which: str, *args: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    """Run it by a shell that closes standard files before."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {which}', "sh", *LAUNCHER, *args],
        capture_output=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
        **more,  # type: ignore[call-overload]
    )


@every_pair
def test_a_closed_input_is_an_empty_one(waker_name: str, engine: str) -> None:
    done = with_closed("<&-", *arguments(waker_name, engine))
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.count(b"\n") == 1


@every_pair
def test_a_closed_output_is_one_sentence(waker_name: str, engine: str) -> None:
    done = with_closed(">&-", *arguments(waker_name, engine), input=b"hello")
    assert done.returncode == 1
    assert last_sentence(done.stderr) == "console: cannot write the output: Bad file descriptor"


def test_a_closed_standard_error_spoils_nothing() -> None:
    done = with_closed("2>&-", "run", "--engine", "python", input=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")


def test_with_everything_closed_it_still_ends() -> None:
    assert with_closed("<&- >&- 2>&-", "run", "--engine", "python").returncode == 0


@every_pair
def test_a_reader_that_goes_away_is_one_sentence(waker_name: str, engine: str, tmp_path: Path) -> None:
    args = arguments(waker_name, engine)
    path = tmp_path / "input"
    path.write_bytes(without_eot(1 << 18, seed=2))
    with no_new_names(), path.open("rb") as file:
        with subprocess.Popen(
            [*LAUNCHER, *args], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert len(os.read(process.stdout.fileno(), 1)) == 1
            process.stdout.close()
            said = process.stderr.read()
            assert process.wait(PATIENCE_S) == 1
    assert last_sentence(said) == "console: cannot write the output: Broken pipe"


@every_pair
def test_a_slow_producer_is_waited_for(waker_name: str, engine: str) -> None:
    args = arguments(waker_name, engine)
    with subprocess.Popen(
        [*LAUNCHER, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(20):
            # The next byte is sent only after the last one came back: each is a wake-up of its own.
            sent = bytes([ord("a") + number])
            os.write(process.stdin.fileno(), sent)
            assert os.read(process.stdout.fileno(), 1) == sent
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE_S) == 0


def test_an_input_that_is_shared_and_does_not_block_is_read_to_its_end() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    data = without_eot(50_000, seed=3)
    with subprocess.Popen(
        [*LAUNCHER, "run", "--engine", "python"],
        stdin=ours,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        os.close(ours)
        assert process.stdout is not None
        with open(theirs, "wb") as file:
            file.write(data)
        assert process.stdout.read() == data
        assert process.wait(PATIENCE_S) == 0


def test_verbose_says_at_the_end_what_was_counted() -> None:
    done = run_launcher("run", "--engine", "python", "--verbose", input=b"hello")
    assert done.stdout == b"hello"
    counts = last_sentence(done.stderr)
    assert "breaks taken" in counts
    assert counts.endswith("was replaced 0 times")


def test_without_flags_the_echo_guest_runs_and_it_says_why_on_this_engine() -> None:
    done = run_launcher("run", input=b"hello")
    assert done.stdout == b"hello"
    assert done.stderr.startswith(b"launcher: guest echo, engine ")
    assert b"(asked for)" not in done.stderr


def test_the_console_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "launcher"
    if not script.exists():
        pytest.skip(f"{script} is not installed")
    done = subprocess.run([script, "list", "guests"], capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.stdout == run_launcher("list", "guests").stdout
