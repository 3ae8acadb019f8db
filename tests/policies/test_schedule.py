"""`Schedule`: full steps as listed."""

import pytest

from skipcache import Schedule
from tests.models.steps import decide


def test_schedule_lists_full_steps_and_beyond_the_last_all_are():
    full = decide(Schedule([0, 3, 5]), range(900, 0, -100))
    assert full == [True, False, False, True, False, True, True, True, True]


def test_schedule_in_any_order_and_from_any_iterable_is_the_same():
    assert Schedule([5, 0, 3, 3]) == Schedule(i for i in (0, 3, 5)) == Schedule({0, 3, 5})
    assert Schedule([5, 0, 3]).full_steps == (0, 3, 5)
    assert hash(Schedule([5, 0])) == hash(Schedule([0, 5]))


def test_a_schedule_without_gaps_caches_nothing():
    assert not Schedule([0]).caches
    assert not Schedule([0, 1, 2]).caches
    assert Schedule([0, 2]).caches
    assert all(decide(Schedule([0, 1, 2]), range(6, 0, -1)))


@pytest.mark.parametrize(
    ("full_steps", "error", "message"),
    [
        ([1, 2], ValueError, "0 among them"),
        ([], ValueError, "0 among them"),
        ([0, -1], ValueError, ">= 0"),
        ([0, 2.0], TypeError, "expected ints"),
        ([0, True], TypeError, "expected ints"),
        ("02", TypeError, "expected ints"),
        (None, TypeError, "expected ints"),
        (2, ValueError, "0 among them"),
    ],
)
def test_schedule_says_what_is_wrong(full_steps, error, message):
    with pytest.raises(error, match=message):
        Schedule(full_steps)
