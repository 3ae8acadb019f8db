"""`Interval`: the authors' rule, and a window in the model's own units."""

import random

import pytest

from skipcache import Interval
from skipcache.policies.base import Step
from tests.models.steps import decide


def skip_cache(timesteps, interval, start=None, close=None):
    """The authors' loop: full or cached, step for step."""
    count, stored, full = 0, False, []
    for t in timesteps:
        full.append(count % interval == 0 or not stored or (start is not None and t >= start))
        stored = True
        count += 1
        if close is not None and t <= close:
            count, stored = 0, False
    return full


@pytest.mark.parametrize("seed", range(60))
def test_interval_is_the_authors_rule(seed):
    draw = random.Random(seed)
    for _ in range(20):
        number = draw.randint(1, 60)
        timesteps = sorted(draw.sample(range(1000), number), reverse=True)
        high, low = sorted(draw.sample(range(2, 1000), 2), reverse=True)
        start, stop = draw.choice([None, high]), draw.choice([None, low])
        interval = draw.randint(1, 7)
        assert decide(Interval(interval, start, stop), timesteps) == skip_cache(timesteps, interval, start, stop)


@pytest.mark.parametrize(
    ("interval", "start", "stop", "stride"),
    [(2, None, 20, 4), (2, 900, 49, 4), (3, 700, 50, 20), (2, 700, 50, 10), (4, 900, 49, 20)],
)
def test_the_authors_settings(interval, start, stop, stride):
    timesteps = list(range(1000 - stride, -1, -stride))
    full = decide(Interval(interval, start, stop), timesteps)
    assert full == skip_cache(timesteps, interval, start, stop)
    assert True in full and False in full


def test_less_than_50_is_a_stop_of_49():
    timesteps = list(range(999, -1, -1))
    stored, expected = False, []
    for count, t in enumerate(timesteps):
        expected.append(count % 2 == 0 or not stored)
        stored = not t < 50
    assert decide(Interval(2, stop=49), timesteps) == expected


def test_interval_without_a_window_reads_no_timestep():
    def unread():
        raise AssertionError("read")

    full = [Interval(3).full(Step(i, unread, unread if i else None, unread)) for i in range(7)]
    assert full == [True, False, False, True, False, False, True]


def test_interval_one_is_full_throughout():
    assert all(decide(Interval(1), range(900, 0, -100)))
    assert not Interval(1).caches
    assert Interval(2).caches


def test_the_step_that_crosses_stop_may_still_be_cached():
    assert decide(Interval(2, stop=500), [800, 700, 600, 500, 400, 300]) == [True, False, True, False, True, True]


def test_a_step_at_start_is_full():
    assert decide(Interval(4, start=700), [900, 700, 699, 600, 500]) == [True, True, False, False, True]


def test_the_window_turns_round_on_rising_timesteps():
    rising = [i / 8 for i in range(8)]
    falling = [8 - i for i in range(8)]
    got = decide(Interval(3, start=0.25, stop=0.625), rising, direction=1)
    assert got == skip_cache(falling, 3, 6, 3)
    assert False in got


@pytest.mark.parametrize(
    ("timesteps", "full"),
    [
        ([(900, 900), (800, 700), (600, 690)], [True, True, False]),
        ([(900, 900), (699, 700), (600, 690)], [True, True, False]),
        ([(900, 900), (699, 600), (500, 590)], [True, False, False]),
        ([(900, 900), (690, 90), (400, 80)], [True, False, True]),
    ],
)
def test_any_sample_of_a_batch_can_ask_for_a_full_step(timesteps, full):
    assert decide(Interval(3, start=700, stop=100), timesteps) == full


@pytest.mark.parametrize(
    ("policy", "timesteps", "direction", "message"),
    [
        (Interval(2, 900, 50), [0.0, 0.1], 1, "rise"),
        (Interval(2, 900, None), [1, 100], 1, "rise"),
        (Interval(2, None, 0.9), [0.0, 0.1], 1, "rise"),
        (Interval(2, 50, 900), [999, 900], -1, "fall"),
        (Interval(2, 900, 50), [1.0, 0.9], -1, "timesteps like 1;"),
        (Interval(2, None, 50), [1.0, 0.9], -1, "own units"),
        (Interval(2, 0.9, 0.1), [999, 900], -1, "timesteps like 999"),
        (Interval(2, 0.9, None), [999, 900], -1, "own units"),
        (Interval(2, 100, 900), [0.0, 0.1], 1, "own units"),
    ],
)
def test_a_window_in_other_units_or_directions_is_refused(policy, timesteps, direction, message):
    with pytest.raises(ValueError, match=message):
        decide(policy, timesteps, direction)


@pytest.mark.parametrize(
    ("policy", "timesteps", "direction"),
    [
        (Interval(2, 0.9, 0.1), [1.0, 0.95, 0.5], -1),
        (Interval(2, 0.1, 0.9), [0.0, 0.05, 0.5], 1),
        (Interval(2, 900, 50), [999, 979, 959], -1),
        (Interval(2, 100, 900), [1, 20, 500], 1),
        (Interval(2, None, 0), [999, 979, 959], -1),
    ],
)
def test_a_window_that_fits_is_not_refused(policy, timesteps, direction):
    assert len(decide(policy, timesteps, direction)) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2.0,), TypeError, "expected an int, got 2.0"),
        ((True,), TypeError, "expected an int, got True"),
        (("2",), TypeError, "expected an int"),
        ((0,), ValueError, "at least 1, got 0"),
        ((-3,), ValueError, "at least 1, got -3"),
        ((2, "900"), TypeError, "for start, got '900'"),
        ((2, None, True), TypeError, "for stop, got True"),
        ((2, 50, 50), ValueError, "both 50"),
    ],
)
def test_interval_says_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        Interval(*arguments)
