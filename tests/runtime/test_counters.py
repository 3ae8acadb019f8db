"""Counters: steps, calls and blocks as they were done, by lane and by step."""

from types import SimpleNamespace

import pytest

from skipcache.runtime.counters import Counters


def count(counters, *steps):
    """Each step is (index, full per call); its first call opens it."""
    for index, calls in steps:
        at = SimpleNamespace(index=index, counted_full=False)
        for i, full in enumerate(calls):
            visit = SimpleNamespace(at=at, opens_step=i == 0)
            first = not at.counted_full
            counters.count(visit, f"signature {i}", full, run=6 if full else 2, depth=6, first=first)
            at.counted_full = at.counted_full or full


def test_steps_are_counted_once_and_blocks_by_call():
    counters = Counters()
    count(counters, (0, [True, True]), (1, [False, False]), (2, [False, False]), (3, [True, True]))
    assert (counters.full_steps, counters.cached_steps, counters.full_at) == (2, 2, (0, 3))
    assert (counters.blocks_run, counters.blocks_saved) == (4 * 6 + 4 * 2, 4 * 4)
    assert counters.calls == {(f"signature {i}", full): 2 for i in (0, 1) for full in (True, False)}


def test_blocks_that_ran_twice_in_a_call_are_no_loss():
    counters, at = Counters(), SimpleNamespace(index=0, counted_full=False)
    counters.count(SimpleNamespace(at=at, opens_step=True), "twice", True, run=12, depth=6, first=True)
    assert (counters.blocks_run, counters.blocks_saved) == (12, 0)


@pytest.mark.parametrize("calls", [[False, True], [False, True, True], [True, False]])
def test_a_step_with_a_full_call_is_a_full_step(calls):
    counters = Counters()
    count(counters, (0, [True] * len(calls)), (1, calls))
    assert (counters.full_steps, counters.cached_steps, counters.full_at) == (2, 0, (0, 1))


def test_full_steps_are_listed_for_the_last_trajectory_alone():
    counters = Counters()
    count(counters, (0, [True]), (1, [False]), (2, [True]), (0, [True]), (1, [True]))
    assert counters.full_at == (0, 1) and counters.full_steps == 4


def test_the_largest_gap_is_that_of_the_last_trajectory_up_to_its_end():
    counters = Counters()
    assert counters.largest_gap == 0
    count(counters, *((i, [i in (0, 4, 6)]) for i in range(8)))
    assert counters.largest_gap == 4
    count(counters, (0, [True]), (1, [False]), (2, [True]), (3, [False]), (4, [False]))
    assert counters.largest_gap == 3


def test_reasons_and_engines_are_noted_once_in_order():
    counters = Counters()
    for reason, engine in (("b", "hooks"), ("a", "fx"), ("b", "hooks")):
        counters.because(reason)
        counters.serve(engine)
    assert list(counters.reasons) == ["b", "a"] and list(counters.engines) == ["hooks", "fx"]


def test_a_call_that_ran_beside_its_step_costs_a_full_one_and_is_no_step():
    counters = Counters()
    count(counters, (0, [True]), (1, [False]))
    counters.repeat("signature 0", 6)
    assert (counters.full_steps, counters.cached_steps, counters.full_at) == (1, 1, (0,))
    assert (counters.blocks_run, counters.blocks_saved) == (6 + 2 + 6, 4)
    assert counters.calls["signature 0", True] == 2


def test_losses_add_up():
    counters = Counters()
    counters.evict(2)
    counters.evict(1)
    assert counters.evictions == 3
