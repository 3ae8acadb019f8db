"""Policies alone, on steps made by hand."""

import random
from itertools import pairwise

import pytest

from skipcache import Interval, Schedule, Spread
from skipcache.policies.base import Policy, Step


def steps(timesteps, direction=None):
    """What the trajectory shows to a policy, for timesteps of one value or of several."""
    vectors = [t if isinstance(t, tuple) else (t,) for t in timesteps]
    turn = -1 if direction is None else direction
    return [
        Step(
            i,
            timesteps=lambda i=i: vectors[i],
            before=(lambda i=i: vectors[i - 1]) if i else None,
            direction=lambda i=i: turn if i else 0,
        )
        for i in range(len(vectors))
    ]


def decide(policy, timesteps, direction=None):
    return [policy.full(step) for step in steps(timesteps, direction)]


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


def spread(policy, count=None, positions=None, steps=None):
    """The full steps of a run, by index."""

    def unread():
        raise AssertionError("read")

    where = list(range(count or steps)) if positions is None else list(positions)
    shown = [Step(i, unread, unread, unread, count=count, position=p if count else None) for i, p in enumerate(where)]
    return [step.index for step in shown if policy.full(step)]


def test_spread_is_sparse_early_and_dense_late():
    assert spread(Spread(0.2, power=1.75), 50) == [0, 9, 17, 24, 31, 37, 42, 46, 48, 49]
    assert spread(Spread(0.6, power=1.75), 20) == [0, 3, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19]
    gaps = [b - a for a, b in pairwise(Spread(0.1, power=1.75).places(1000))]
    assert gaps[:2] == [18, 17] and gaps[-3:] == [1, 1, 1]
    assert sum(gaps) == 999 and all(b <= a for a, b in pairwise(gaps)), "they never rise"


def test_spread_is_nearer_to_even_in_a_short_run():
    for count, power in ((20, 1.25), (30, 1.25), (31, 1.5), (50, 1.5), (1000, 1.5)):
        assert Spread(0.3).places(count) == Spread(0.3, power=power).places(count)
    assert Spread(0.5).places(20) == (0, 3, 6, 8, 10, 12, 14, 16, 18, 19)


def test_spread_leans_to_the_end_where_steps_draw_noise():
    for count in (20, 50):
        assert Spread(0.3).places(count, noisy=True) == Spread(0.3, power=2).places(count) != Spread(0.3).places(count)
        assert Spread(0.3, power=1.5).places(count, noisy=True) == Spread(0.3, power=1.5).places(count)


@pytest.mark.parametrize("power", [1, 1.75, 4])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.345, 0.5, 0.9, 0.99, 1])
def test_spread_has_its_share_whatever_the_count(share, power):
    for count in (1, 2, 3, 7, 20, 50, 99, 250):
        placed = Spread(share, power).places(count)
        assert len(placed) == min(count, max(2, int(share * count + 1e-9)))
        assert placed[0] == 0 and placed[-1] == count - 1
        gaps = [b - a for a, b in pairwise(placed)]
        assert all(a >= b >= 1 for a, b in pairwise([*gaps, 1])), "they never rise"


def test_spread_leaves_so_many_full_steps_at_least_or_half_of_a_shorter_run():
    assert Spread(0.1, least=10).places(50) == Spread(0.2).places(50)
    assert Spread(0.1, least=10).places(8) == Spread(0.5).places(8)


def test_spread_of_power_one_is_even():
    assert Spread(0.26, power=1).places(50) == (0, 5, *range(9, 50, 4))


def test_spread_over_a_part_of_a_run_has_what_lies_there():
    whole = Spread(0.2).places(50)
    assert spread(Spread(0.2), 50, range(30, 50)) == [0, *(p - 30 for p in whole if p > 30)]
    assert spread(Spread(0.2), 50, range(30)) == [p for p in whole if p < 30]


def test_spread_where_nothing_tells_the_count_is_even_and_keeps_its_share():
    assert spread(Spread(1 / 3), steps=10) == [0, 3, 6, 9]
    for share in (0.1, 0.26, 0.345, 0.7, 0.95):
        placed = spread(Spread(share), steps=1000)
        gaps = [b - a for a, b in pairwise(placed)]
        assert len(placed) == pytest.approx(1000 * share, abs=1) and max(gaps) - min(gaps) <= 1


def test_spread_takes_the_count_from_the_scheduler_and_else_from_steps():
    told = spread(Spread(0.2, steps=50), steps=52)
    assert told == [*spread(Spread(0.2), 50), 50, 51], "beyond the end all steps are full"
    assert spread(Spread(0.2, steps=10), 50) == spread(Spread(0.2), 50)


@pytest.mark.parametrize(("kept", "depth"), [(2, 12), (2, 28), (0, 12), (8, 28), (1, 57)])
@pytest.mark.parametrize("speedup", [1, 1.5, 2.2, 3])
def test_spread_reaches_the_speedup_and_no_more_than_a_step_beyond(speedup, kept, depth):
    policy = Spread.reaching(speedup, kept, depth)
    for count in (20, 50, 250):
        full = len(policy.places(count))

        def gain(full, count=count):
            return count * depth / (full * depth + (count - full) * kept)

        assert full == min(10, count // 2) or gain(full) >= speedup - 1e-9
        assert full == count or gain(full + 1) < speedup


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Spread("0.2"), TypeError, "a number for share, got '0.2'"),
        (lambda: Spread(True), TypeError, "a number for share, got True"),
        (lambda: Spread(0), ValueError, "0 < share <= 1, got 0"),
        (lambda: Spread(1.1), ValueError, "0 < share <= 1, got 1.1"),
        (lambda: Spread(0.2, power="1"), TypeError, "a number for power, got '1'"),
        (lambda: Spread(0.2, power=0.7), ValueError, "1 <= power <= 4, got 0.7"),
        (lambda: Spread(0.2, steps=2.5), TypeError, "an int for steps, got 2.5"),
        (lambda: Spread(0.2, steps=0), ValueError, "steps >= 1, got 0"),
        (lambda: Spread(0.2, least="2"), TypeError, "an int for least, got '2'"),
        (lambda: Spread(0.2, least=0), ValueError, "least >= 1, got 0"),
        (lambda: Spread.reaching("2", 2, 12), TypeError, "speedup: expected a number, got '2'"),
        (lambda: Spread.reaching(0.9, 2, 12), ValueError, "speedup: expected at least 1, got 0.9"),
        (lambda: Spread.reaching(float("nan"), 2, 12), ValueError, "at least 1, got nan"),
        (lambda: Spread.reaching(6, 2, 12), ValueError, "less than 6, got 6: a cached step runs 2 of 12 units"),
    ],
)
def test_spread_says_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_policy_of_one_s_own_has_two_methods():
    class Never:
        caches = True

        def full(self, step):
            return False

    for policy in (Never(), Interval(2), Schedule([0]), Spread(0.5)):
        assert isinstance(policy, Policy)
