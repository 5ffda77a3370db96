"""What rows of a ledger prove: made up here, so that what is lost, late and coalesced is known."""

from __future__ import annotations

import numpy as np
import pytest

from launcher.bench.measure.cases import get
from launcher.bench.measure.evidence import Rows, count, lost
from launcher.bench.store.records import SPAN


def rows(*served: tuple[int, int, int], gap: int = 100) -> Rows:
    """Rings that are `gap` ns apart, each sent 1 ns after its time: when served (0: never), in which wake, in vain."""
    made = [
        (100 + number * gap, 101 + number * gap, served_at, wake, 0, in_vain)
        for number, (served_at, wake, in_vain) in enumerate(served)
    ]
    return np.array(made, dtype=np.int64).reshape(-1, 6)


def test_all_served_and_none_lost() -> None:
    fine = rows((150, 1, 0), (250, 2, 0))
    assert lost(fine, 0, is_hung=False) == []
    counts = count(get("wake"), fine, 0)
    assert counts == {
        "sent": 2, "warmup": 0, "served": 2, "coalesced": 0, "late": 0, "unserved": 0,
    }  # fmt: skip


def test_what_was_never_served_is_lost_where_it_hung_and_not_where_it_died() -> None:
    ended = rows((150, 1, 0), (0, 0, 0), (0, 0, 0))
    assert lost(ended, 0, is_hung=True) == [1, 2]
    assert lost(ended, 0, is_hung=False) == []
    assert count(get("wake"), ended, 0)["unserved"] == 2


def test_the_ring_that_a_later_one_made_up_for_is_the_first_of_its_wake_and_not_the_one_that_waited_longest() -> None:
    made_up_for = rows((9000, 1, 0), (9100, 2, 0), (9200, 3, 1), (9200, 3, 1), (9300, 4, 1))
    assert lost(made_up_for, 1, is_hung=False) == [2]


def test_of_several_sources_it_is_the_one_that_was_sent_first() -> None:
    by_source = rows((500, 2, 1), (400, 1, 0), (501, 2, 1))
    assert lost(by_source, 1, is_hung=False) == [0]


def test_each_break_in_vain_is_a_ring() -> None:
    twice = rows((150, 1, 0), (450, 2, 2), (450, 2, 2), (450, 2, 2), (550, 3, 2), (750, 4, 3), (750, 4, 3))
    assert lost(twice, 3, is_hung=False) == [1, 2, 5]


def test_two_breaks_in_vain_before_one_ring_are_not_laid_to_the_next_one() -> None:
    assert lost(rows((150, 1, 0), (450, 2, 2), (550, 3, 2), (650, 4, 2)), 2, is_hung=False) == [1]


def test_the_break_that_it_died_in_is_that_of_the_first_ring_that_is_unserved() -> None:
    died = rows((150, 1, 0), (250, 2, 0), (0, 0, 0), (0, 0, 0))
    assert lost(died, 1, is_hung=False) == [2]
    assert lost(rows((0, 0, 0), (0, 0, 0)), 1, is_hung=False) == [0]


def test_the_break_that_it_hangs_in_is_told_by_what_is_unserved() -> None:
    hung = rows((150, 1, 0), (350, 2, 1), (350, 2, 1), (0, 0, 0), (0, 0, 0))
    assert lost(hung, 2, is_hung=True) == [1, 3, 4]


def test_a_break_in_vain_after_the_last_wake_is_told_by_the_last_ring() -> None:
    assert lost(rows((150, 1, 0), (250, 2, 0)), 1, is_hung=False) == [1]
    assert lost(rows(), 1, is_hung=False) == []


def test_a_ring_is_late_when_the_next_one_was_sent_before_it_was_served() -> None:
    assert count(get("wake"), rows((250, 1, 0), (250, 1, 0), (350, 2, 0)), 0)["late"] == 1


def test_within_a_burst_none_is_late_but_its_last_one_may_be() -> None:
    burst = rows((150, 1, 0), (151, 1, 0), (390, 2, 0), gap=0)
    burst[2, :2] = 300
    assert count(get("burst"), burst, 0)["late"] == 0
    burst[1, 2] = 301
    assert count(get("burst"), burst, 0)["late"] == 1


def test_rings_that_share_a_wake_are_one_less_than_they_are() -> None:
    counts = count(get("burst"), rows((450, 1, 0), (450, 1, 0), (450, 1, 0), (550, 2, 0), (0, 0, 0)), 0)
    assert (counts["served"], counts["coalesced"]) == (4, 2)


def test_a_closed_loop_has_a_span_and_none_is_late() -> None:
    counts = count(get("block"), rows((150, 1, 0), (250, 2, 0), (390, 3, 0)), 1)
    assert counts[SPAN] == 390 - 200
    assert counts["late"] == 0


def test_what_is_counted_comes_after_the_warm_up_by_number() -> None:
    counts = count(get("block"), rows((0, 0, 0), (250, 2, 0), (390, 3, 0)), 1)
    assert counts[SPAN] == 390 - 200


@pytest.mark.parametrize("name", ["wake", "block", "start", "idle"])
def test_nothing_served_is_no_trouble(name: str) -> None:
    counts = count(get(name), rows((0, 0, 0)), 0)
    assert (counts["served"], counts["unserved"]) == (0, 1)
