"""Bad input is refused with one sentence on standard error and exit code 1; data goes to standard output, alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import waker
from launcher import engines, guests
from launcher.bench.store import exporters
from launcher.check.rules import RULES
from shared.breaker import KINDS
from tests.support.sessions import (
    LAUNCHER,
    PATIENCE_S,
    ROOT,
    environment,
    only_sentence,
    run_launcher,
    wait_until_gone,
    why_not,
)


def refused(*args: str, code: int = 1) -> str:
    done = run_launcher(*args)
    assert done.stdout == b""
    assert done.returncode == code, done.stderr
    return only_sentence(done.stderr)


def refused_on(engine: str, *args: str) -> str:
    if reason := engines.get(engine).why_not():
        pytest.skip(f"{engine}: {reason}")
    return refused("run", "--engine", engine, *args)


every_engine = pytest.mark.parametrize("engine", engines.names())


# ---- Images ----


@every_engine
def test_an_image_that_is_not_there(engine: str) -> None:
    assert refused_on(engine, "/no/such/image").startswith("image /no/such/image: no such file")


def test_a_guest_in_python_that_is_not_there() -> None:
    assert refused("run", "/no/such/guest.py") == "image '/no/such/guest.py': no such file"


@every_engine
@pytest.mark.parametrize("name", ["folder", "folder.py"])
def test_an_image_that_is_a_directory(engine: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    sentence = refused_on(engine, str(tmp_path / name))
    assert sentence.startswith("image ")
    assert str(tmp_path / name) in sentence


@every_engine
@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(1000), os.urandom(4096)])
def test_a_file_that_is_no_image(engine: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert refused_on(engine, str(path)).startswith(f"image {path}: ")


@every_engine
def test_an_image_of_another_machine(engine: str, tmp_path: Path) -> None:
    content = bytearray(guests.image_path("echo").read_bytes())
    content[18:20] = (243).to_bytes(2, "little")  # e_machine: RISC-V
    path = tmp_path / "riscv.elf"
    path.write_bytes(content)
    assert refused_on(engine, str(path)).startswith(f"image {path}: is for another machine (EM_RISCV")


@every_engine
def test_a_fifo_is_refused_and_not_waited_for(engine: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused_on(engine, str(tmp_path / "fifo")).startswith(f"image {tmp_path}/fifo: ")


def test_an_image_that_is_too_large_for_memory(tmp_path: Path) -> None:
    # The built-in echo, with a segment that wants more memory than there is (p_memsz of its first program header).
    content = bytearray(guests.image_path("echo").read_bytes())
    at = int.from_bytes(content[28:32], "little") + 20
    content[at : at + 4] = (1 << 30).to_bytes(4, "little")
    path = tmp_path / "large.elf"
    path.write_bytes(content)
    sentence = refused_on("kvm", "--memory", "2", str(path))
    assert sentence.startswith(f"image {path}: does not fit: ")
    assert "--memory" in sentence


def test_machine_code_on_the_engine_that_has_none_is_told_who_runs_it() -> None:
    assert "give --engine kvm" in refused_on("python", str(guests.image_path("echo")))


def test_a_name_with_a_new_line_in_it_is_still_one_sentence() -> None:
    assert "\\n" in refused("run", "--engine", "python", "two\nlines\x1b[31m")


def test_the_sentence_before_the_start_is_one_line_too_whatever_the_guest_is_called(tmp_path: Path) -> None:
    guest = tmp_path / "red\x1b[31m\n.py"
    guest.write_text("from launcher.api import Shutdown\ndef run(cpu):\n    yield Shutdown()\n")
    done = run_launcher("run", "--engine=python", str(guest))
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1)
    assert b"red\\x1b[31m\\n.py, engine python" in done.stderr


# ---- Values and names ----


@pytest.mark.parametrize(
    "text", ["0", "-1", "-99999999999999999999", "3073", "1000000000000", "0x7fffffffffffffff", "9" * 400]
)
def test_memory_that_no_machine_can_be_made_of(text: str) -> None:
    assert refused("run", f"--memory={text}").endswith(" MiB cannot be made; give --memory 1 to 3072")


@pytest.mark.parametrize("text", ["", "much", "1.5", "1e3", "16M", "nan", "9" * 5000])
def test_memory_that_is_not_a_number(text: str) -> None:
    sentence = refused("run", f"--memory={text}")
    assert sentence.startswith("argument --memory: ")
    assert "is not a number of MiB" in sentence


@pytest.mark.parametrize("name", ["", "foo", "process", "process/", "/select", "process/foo", "select/process", "a+b"])
def test_a_waker_that_is_not_known_is_told_which_are(name: str) -> None:
    sentence = refused("run", f"--waker={name}")
    assert sentence == f"waker '{name}' is not known; there are {', '.join(waker.names())}"


@pytest.mark.parametrize("breaker", ["", "foo"])
def test_a_breaker_that_is_not_known_is_told_which_are(breaker: str) -> None:
    sentence = refused("run", f"--waker=process/select+{breaker}")
    assert sentence.startswith(f"breaker '{breaker}' of waker 'process/select+{breaker}' is not known; there are ")
    assert "signal" in sentence


def test_two_breakers_are_one_too_many() -> None:
    sentence = refused("run", "--waker=process/select+signal+signal")
    assert sentence == "waker 'process/select+signal+signal': one breaker is enough, and 'ring-aware' is said once"


@pytest.mark.parametrize("command", ["run", "check"])
def test_an_engine_that_is_not_known_is_told_which_are(command: str) -> None:
    assert refused(command, "--engine=foo") == "engine 'foo' is not known; there are auto, " + ", ".join(
        engines.names()
    )


def test_check_refuses_names_before_it_checks_anything() -> None:
    assert refused("check", "--waker=foo").startswith("waker 'foo' is not known; there are ")
    assert refused("check", "--rule=W0") == f"rule 'W0' is not known; there are {', '.join(RULES)}"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["run", "--fast"],
        ["list", "wakers", "more"],
        ["list"],
        ["list", "wings"],
        ["run", "-x"],
        ["bench", "--out=x"],
    ],
)
def test_a_command_or_option_that_is_not_known(args: Sequence[str]) -> None:
    assert "--help)" in refused(*args)


def test_unknown_commands_and_lists_are_told_which_are() -> None:
    for name in ("run", "list", "check"):
        assert name in refused("fly")
    for name in ("wakers", "breakers", "engines", "guests"):
        assert name in refused("list", "wings")


# ---- What cannot work ----


def test_a_pair_that_cannot_work_says_why_and_what_would() -> None:
    sentence = refused_on("kvm", "--waker", "process/select+eventfd")
    assert sentence == (
        "waker 'process/select+eventfd': breaker 'eventfd' cannot stop engine kvm; take one that can "
        "(signal, immediate), or engine unicorn or python"
    )


@pytest.mark.parametrize("name", ["fork/select", "thread/select", "process/select"])
@pytest.mark.parametrize("breaker", engines.get("python").breakers)
def test_a_pair_that_can_work_does(name: str, breaker: str) -> None:
    if reason := why_not(f"{name}+{breaker}", "python"):
        pytest.skip(reason)
    done = run_launcher("run", "--engine=python", f"--waker={name}+{breaker}", input=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")


def as_nobody() -> list[str]:
    """Return what, put before a command, makes it run as somebody who may not open /dev/kvm; or skip."""
    if not Path("/dev/kvm").exists():
        pytest.skip("there is no /dev/kvm")
    if os.geteuid() != 0:
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            pytest.skip("this user may open /dev/kvm, and only root can become another")
        return []
    if not (setpriv := shutil.which("setpriv")):
        pytest.skip("setpriv is not installed")
    if Path("/dev/kvm").stat().st_mode & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/kvm")
    prefix = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    probe = subprocess.run(
        [*prefix, sys.executable, "-c", "import launcher"], cwd=ROOT, capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"nobody cannot run this Python: {probe.stderr.decode().strip().splitlines()[-1]}")
    return prefix


WITHOUT_UNICORN = [
    sys.executable, "-c", "import sys; sys.modules['unicorn'] = None; from launcher.cli import main; sys.exit(main())",
]  # fmt: skip


def run_as_nobody(
    *args: str, text: bytes = b"", program: Sequence[str] = LAUNCHER
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*as_nobody(), *program, *args],
        input=text,
        capture_output=True,
        env=environment(),
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("args", [("run",), ("bench",), ("duel", "thread/select", "thread/poll")])
def test_kvm_that_is_not_allowed_is_refused_when_it_was_asked_for(args: Sequence[str]) -> None:
    done = run_as_nobody(*args, "--engine", "kvm")
    assert (done.returncode, done.stdout) == (77, b"")
    sentence = only_sentence(done.stderr)
    assert sentence.startswith("engine 'kvm' cannot run here: not allowed: open /dev/kvm: Permission denied")


def test_kvm_that_is_not_allowed_is_done_without_when_it_was_not_asked_for() -> None:
    # This Waker needs no second start of the interpreter, which nobody may not be allowed (a Python below /root).
    done = run_as_nobody("run", "--waker=thread/select", text=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")
    best = "python" if engines.get("unicorn").why_not() else "unicorn"
    assert f"engine {best} (kvm: not allowed".encode() in done.stderr


def test_an_engine_that_is_not_installed_is_done_without_too() -> None:
    done = run_as_nobody("run", "--waker=thread/select", text=b"hello", program=WITHOUT_UNICORN)
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert b"engine python (kvm: not allowed" in done.stderr
    assert b"; unicorn: the package unicorn is not installed; pip install" in done.stderr


def test_machine_code_that_nothing_here_runs_is_exit_code_77() -> None:
    done = run_as_nobody("run", str(guests.image_path("echo")), program=WITHOUT_UNICORN)
    assert done.returncode == 77
    assert "no engine here runs that" in only_sentence(done.stderr)


def test_an_unknown_image_is_unknown_even_where_nothing_runs_it() -> None:
    done = run_as_nobody("run", "/no/such/image")
    assert done.returncode == 1
    assert "no such file" in only_sentence(done.stderr)


# ---- What goes where ----


@pytest.mark.parametrize("what", ["wakers", "breakers", "engines", "guests", "exporters"])
def test_a_list_is_data_and_nothing_else(what: str) -> None:
    plain, rows = run_launcher("list", what), run_launcher("list", what, "--json")
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert (rows.returncode, rows.stderr) == (0, b"")
    parsed = [json.loads(line) for line in rows.stdout.splitlines()]
    names = {
        "wakers": waker.names(),
        "breakers": list(KINDS),
        "engines": engines.names(),
        "guests": guests.names(),
        "exporters": exporters.names(),
    }[what]
    assert [row["name"] for row in parsed] == names
    assert [line.split()[0] for line in plain.stdout.decode().splitlines()] == names
    assert all(row["description"] for row in parsed)


def test_check_as_json_lines_has_a_row_for_each_rule() -> None:
    done = run_launcher("check", "--waker=thread/select", "--engine=python", "--rule=W1", "--rule=W4", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["waker"], r["engine"], r["rule"], r["outcome"]) for r in rows] == [
        ("thread/select", "python", "W1", "pass"),
        ("thread/select", "python", "W4", "pass"),
    ]
    assert all(row["detail"] for row in rows)


def test_check_as_a_table_has_no_colour_in_a_pipe_nor_with_no_color() -> None:
    for more in ({}, {"NO_COLOR": "1"}):
        done = run_launcher("check", "--waker=thread/select", "--engine=python", "--rule=W1", env=environment(**more))
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\x1b" not in done.stdout
        assert [line.split() for line in done.stdout.decode().splitlines()] == [
            ["engine", "waker", "W1"],
            ["python", "thread/select", "pass"],
        ]


def test_check_where_nothing_could_be_tried_is_exit_code_77() -> None:
    done = run_as_nobody("check", "--engine=kvm", "--waker=thread/select", "--rule=W1", "--json")
    assert done.returncode == 77
    assert json.loads(done.stdout)["outcome"] == "skip"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_is_printed_that_the_shell_understands(shell: str) -> None:
    done = run_launcher("--print-completion", shell)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"launcher" in done.stdout
    if program := shutil.which(shell):
        read = subprocess.run([program, "-n"], input=done.stdout, capture_output=True, check=False)
        assert (read.returncode, read.stderr) == (0, b"")


def test_a_shell_that_cannot_be_completed_is_refused_with_those_that_can() -> None:
    done = run_launcher("--print-completion", "dosshell")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "'dosshell' is not known; there are bash, zsh, " in only_sentence(done.stderr)


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["list", "-h"], ["check", "-h"]])
def test_help_is_data(args: Sequence[str]) -> None:
    done = run_launcher(*args)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: launcher")


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_data_that_cannot_be_written_is_one_sentence(where: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *LAUNCHER, "list", "wakers", "--json"],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    only_sentence(done.stderr)


def test_a_reader_that_has_gone_is_one_sentence() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            [*LAUNCHER, "list", "wakers"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(theirs)
    assert done.returncode == 1
    assert only_sentence(done.stderr) == "standard output was closed before all was written"


@pytest.mark.parametrize("name", ["process/select", "thread/select"])
def test_ctrl_c_during_check_is_exit_code_130_without_a_traceback(name: str) -> None:
    with subprocess.Popen(
        [*LAUNCHER, "check", "--engine=python", f"--waker={name}", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()  # the first rule is done: it is in the middle of the others
        os.killpg(process.pid, signal.SIGINT)
        rest, said = process.communicate(timeout=PATIENCE_S)
    wait_until_gone(process.pid)  # a Waker that was just being started sees the end of its socket
    assert process.returncode == 130
    assert only_sentence(said) == "interrupted"
    assert [json.loads(line)["outcome"] for line in (first + rest).splitlines()]  # what was found is kept
