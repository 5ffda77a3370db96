"""The control page is the same words on both sides, and a trace on it has one writer per lane."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic_ns

import pytest

from shared.errors import MemoryRefused
from shared.page import BREAK, IS_TRACING, SIZE, Page
from shared.structs import TRACE_RECORDS
from shared.trace import LAUNCHER_LANE, WAKER_LANE, Stage, Trace
from tests.support.fds import no_new_fds


@pytest.fixture
def page() -> Iterator[Page]:
    with Page.create() as page:
        yield page


def test_a_new_page_is_zero(page: Page) -> None:
    assert not any(page.words)
    assert len(page.words) * 8 == SIZE


def test_both_sides_see_the_same_words(page: Page) -> None:
    with Page(os.dup(page.fileno())) as other:
        page.words[BREAK] = 1
        assert other.words[BREAK] == 1
        other.words[BREAK] = 0
        assert page.words[BREAK] == 0


def test_a_page_cannot_be_resized(page: Page) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(page.fileno(), 0)
    assert not os.get_inheritable(page.fileno())


def test_a_page_of_another_version_is_refused_and_closed() -> None:
    with no_new_fds():
        fd = os.memfd_create("other")
        os.ftruncate(fd, SIZE + 8)
        with pytest.raises(MemoryRefused, match=f"^control page: {SIZE + 8} bytes, but this version has {SIZE}$"):
            Page(fd)


def test_closing_a_page_twice_is_closing_it_once() -> None:
    with no_new_fds():
        page = Page.create()
        page.close()
        page.close()


def test_the_control_words_and_the_lanes_do_not_overlap(page: Page) -> None:
    for lane in (WAKER_LANE, LAUNCHER_LANE):
        words = page.lane(lane)
        for at in range(len(words)):
            words[at] += 1
    assert set(page.words[512:]) == {1}
    assert set(page.words[:512]) == {0}


def test_nothing_is_stamped_when_nobody_asked_for_a_trace(page: Page) -> None:
    trace = Trace(page, WAKER_LANE)
    trace.stamp(Stage.SEEN)
    assert trace.stamps() == []


def test_stamps_are_kept_in_order_with_their_times(page: Page) -> None:
    page.words[IS_TRACING] = 1
    trace = Trace(page, WAKER_LANE)
    before = monotonic_ns()
    for stage in Stage:
        trace.stamp(stage)
    after = monotonic_ns()
    stamps = trace.stamps()
    assert [stamp.stage for stamp in stamps] == list(Stage)
    times = [stamp.time_ns for stamp in stamps]
    assert [before, *times, after] == sorted([before, *times, after])


def test_the_newest_stamps_push_out_the_oldest(page: Page) -> None:
    page.words[IS_TRACING] = 1
    trace = Trace(page, LAUNCHER_LANE)
    for _ in range(10):
        trace.stamp(Stage.LEFT)
    for _ in range(TRACE_RECORDS - 1):
        trace.stamp(Stage.SERVICED)
    trace.stamp(Stage.RELEASED)
    stages = [stamp.stage for stamp in trace.stamps()]
    assert stages == [Stage.SERVICED] * (TRACE_RECORDS - 1) + [Stage.RELEASED]


def test_each_lane_has_its_own_stamps_and_the_other_process_is_seen(page: Page) -> None:
    page.words[IS_TRACING] = 1
    mine, other = Trace(page, LAUNCHER_LANE), Trace(page, WAKER_LANE)
    script = """
import sys
from shared.page import Page
from shared.trace import WAKER_LANE, Stage, Trace
with Page(int(sys.argv[1])) as page:
    trace = Trace(page, WAKER_LANE)
    trace.stamp(Stage.SEEN)
    trace.stamp(Stage.BREAK)
    trace.close()
"""
    before = monotonic_ns()
    subprocess.run([sys.executable, "-c", script, str(page.fileno())], pass_fds=[page.fileno()], check=True)
    mine.stamp(Stage.LEFT)
    assert [stamp.stage for stamp in mine.stamps()] == [Stage.LEFT]
    theirs = other.stamps()
    assert [stamp.stage for stamp in theirs] == [Stage.SEEN, Stage.BREAK]
    # One clock for every process.
    assert before < theirs[0].time_ns <= theirs[1].time_ns <= mine.stamps()[0].time_ns
