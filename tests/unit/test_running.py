"""Who is found to be a Launcher: who holds a page that names it. Anybody can make such a page: it proves nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from launcher import identity, others
from launcher import running as running_module
from launcher.config import RunConfig
from launcher.running import HasEnded, find_all, open_one, open_process
from shared.errors import UsageError
from shared.page import NAME, SIZE, Page
from shared.structs import Identity
from tests.support.fds import no_new_fds
from tests.support.sessions import environment


def introduced(page: Page, **more: Any) -> None:
    identity.introduce(page, RunConfig(**more), "python")


def found() -> dict[str, Any] | None:
    """Return what `ps` finds of this very process, if it does."""
    with no_new_fds(), find_all() as everybody:
        rows = [others._row(one) for one in everybody.running if one.pid == os.getpid()]
    return rows[0] if rows else None


def is_found() -> bool:
    return found() is not None


def test_who_holds_a_page_that_names_it_is_found_once() -> None:
    with Page.create() as page:
        introduced(page, image="say", waker="thread/poll")
        copy = os.dup(page.fileno())
        row = found()
        os.close(copy)
        assert row is not None
        assert (row["pid"], row["guest"], row["engine"], row["waker"]) == (os.getpid(), "say", "python", "thread/poll")
        assert row["breaks"] == 0
    assert not is_found()


def test_two_machines_in_one_process_are_two() -> None:
    with Page.create() as first, Page.create() as second:
        introduced(first, image="first")
        introduced(second, image="second")
        with find_all() as everybody:
            guests = [one.who.guest for one in everybody.running if one.pid == os.getpid()]
        assert guests == ["first", "second"]


def test_a_page_that_is_not_complete_yet_is_not_found() -> None:
    with Page.create():
        assert not is_found()


@pytest.mark.parametrize(
    ("field", "value"),
    [("magic", 0), ("pid", os.getpid() + 1), ("process_start", 1)],
    ids=["magic", "pid", "process_start"],
)
def test_a_page_of_another_process_or_of_an_earlier_one_of_this_pid_is_not_ours(field: str, value: int) -> None:
    with Page.create() as page:
        introduced(page)
        assert is_found()
        page.words[getattr(Identity, field).offset // 8] = value
        assert not is_found()


@pytest.mark.parametrize("size", [0, 100, SIZE])
def test_what_is_too_short_or_not_sealed_is_not_mapped(size: int) -> None:
    with Page.create() as page:
        introduced(page)
        content = bytes(page.words)
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    try:
        os.write(fd, content[:size])
        assert not is_found()
    finally:
        os.close(fd)


def test_what_a_stranger_calls_itself_is_shown_in_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with Page.create() as page:
        introduced(page, image="\x1b[2Jecho\n\u202e")
        with open_process(os.getpid()) as pidfd, open_one(os.getpid(), pidfd) as running:
            others._print_stats(running, is_json=False)
    assert capsys.readouterr().out.startswith("guest \\x1b[2Jecho\\n\\u202e, engine python, ")


def test_text_that_is_no_utf_8_is_shown_all_the_same() -> None:
    with Page.create() as page:
        introduced(page)
        page.put(Identity.guest.offset, b"\xff" * Identity.guest.size)
        row = found()
        assert row is not None
        assert row["guest"] == "\N{REPLACEMENT CHARACTER}" * 64


def test_of_a_path_that_is_too_long_the_end_is_shown() -> None:
    with Page.create() as page:
        introduced(page, image=f"/{'long/' * 40}guest.elf")
        row = found()
        assert row is not None
        assert row["guest"].startswith("...")
        assert row["guest"].endswith("/guest.elf")
        assert len(row["guest"]) == 64


def test_a_launcher_of_another_version_is_found_but_not_counted() -> None:
    with Page.create() as page:
        introduced(page)
        page.words[Identity.version.offset // 8] = 99
        row = found()
        assert row is not None
        assert (row["guest"], row["breaks"], row["version"]) == ("echo", None, 99)


@pytest.mark.parametrize("pid", [0, -1, 1 << 22 | 1, 1 << 70])
def test_a_pid_that_is_nobodys_is_said_to_be(pid: int) -> None:
    with pytest.raises(UsageError, match=rf"^process {pid}: is not there; see launcher ps$"):
        with no_new_fds(), open_process(pid):
            pass


def test_one_that_is_ending_is_said_to_have_ended_also_to_its_user_who_may_not_look_into_it_any_more() -> None:
    user = os.geteuid()
    with subprocess.Popen(["true"]) as ending:
        os.waitid(os.P_PID, ending.pid, os.WEXITED | os.WNOWAIT)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(HasEnded, match="has just ended"):
                with open_process(ending.pid) as pidfd, open_one(ending.pid, pidfd):
                    pass
        finally:
            os.seteuid(user)


# ---- One that has no page yet ----

LATE = """
import sys
from launcher import identity
from launcher.config import RunConfig
from shared.page import Page
sys.stdin.readline()
page = Page.create()
identity.introduce(page, RunConfig(image="late"), "python")
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def late(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Start what makes its page when it is told to, by a line, and says so by another."""
    with subprocess.Popen(
        [sys.executable, "-c", LATE, *args], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_page_of_a_launcher_that_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with late("/some/launcher", "run") as process, open_process(process.pid) as pidfd:

        def tell_it(_pidfd: int, _timeout_s: float) -> bool:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return not process.stdout.readline()

        monkeypatch.setattr(running_module, "wait_for_end", tell_it)
        with no_new_fds(), open_one(process.pid, pidfd) as running:
            assert running.who.guest == "late"


def test_one_that_ends_before_it_has_a_page_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with late("launcher", "run") as process, open_process(process.pid) as pidfd:
        wait = running_module.wait_for_end

        def end_it(pidfd: int, _timeout_s: float) -> bool:
            process.kill()
            return wait(pidfd, 60)

        monkeypatch.setattr(running_module, "wait_for_end", end_it)
        with pytest.raises(HasEnded, match=r"^process \d+: has just ended$"):
            with no_new_fds(), open_one(process.pid, pidfd):
                pass


@pytest.mark.parametrize("args", [("launcher", "bench"), ("run",), ("xlauncher", "run")])
def test_what_was_not_started_as_a_launcher_is_not_waited_for(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "PATIENCE_S", 1e9)
    with late(*args) as process, open_process(process.pid) as pidfd:
        with pytest.raises(UsageError, match="is no Launcher with a Guest"):
            with open_one(process.pid, pidfd):
                pass


def test_no_fd_left_to_look_with_is_not_taken_for_nobody_there() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Page.create() as page:
        introduced(page)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))  # for a folder, or a page
        try:
            with pytest.raises(OSError, match="Too many open files"), find_all():
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
