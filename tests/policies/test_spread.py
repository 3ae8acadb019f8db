"""`Spread`: a share of the steps is full, placed by a density over flow time."""

from itertools import pairwise

import pytest

from skipcache import Spread
from skipcache.policies.base import Step
from skipcache.policies.spread import LEAST, LONGEST, SHORTEST, even, placed, usual

SHIFTED = tuple(3 * s / (1 + 2 * s) for s in (1 - i / 28 for i in range(28)))  # flow matching with shift 3


def view(index=0, count=None, position=None, times=None, scheduler=None):
    def unread():
        raise AssertionError("read")

    read = unread if times is unread else lambda: times
    return Step(
        index, unread, unread, unread, count=count, position=position, times=read, scheduler=scheduler, on_host=False
    )


def spread(policy, count=None, positions=None, steps=None, times=None, scheduler=None):
    """The full steps of a run, by index."""
    where = list(range(count or steps)) if positions is None else list(positions)
    shown = [view(i, count, p if count else None, times, scheduler) for i, p in enumerate(where)]
    return [step.index for step in shown if policy.full(step)]


def every(interval, kept=0, depth=12):
    return Spread.every(interval, None, kept, depth)


@pytest.mark.parametrize(
    ("times", "k", "expected"),
    [
        (usual(50), 16, (0, 10, 15, 19, 22, 25, 28, 31, 34, 37, 40, 43, 45, 47, 48, 49)),
        (usual(20), 7, (0, 6, 9, 12, 15, 17, 19)),
        (usual(20), 10, (0, 5, 7, 9, 11, 13, 15, 17, 18, 19)),
        (SHIFTED, 9, (0, 4, 9, 14, 18, 21, 24, 26, 27)),
        (even(50), 17, (*range(0, 48, 3), 49)),
    ],
)
def test_full_steps_have_one_density_over_flow_time(times, k, expected):
    """Few stand where a schedule spends many steps on little change of the noise level."""
    assert placed(times, k) == expected


@pytest.mark.parametrize("times", [usual(9), usual(20), usual(50), usual(250), even(33), SHIFTED, usual(50)[35:]])
def test_the_largest_gap_is_bounded_and_all_full_steps_are_used(times):
    for k in range(2, len(times) + 1):
        full = placed(times, k)
        assert len(full) == k and (full[0], full[-1]) == (0, len(times) - 1)
        assert max(b - a for a, b in pairwise(full)) <= LONGEST * len(times) / (k - 1) + 1


def test_steps_at_one_noise_level_weigh_nothing():
    """Heun's second evaluation, and the one after it."""
    twice = tuple(t for t in usual(10) for _ in range(2))
    full = placed(twice, 8)
    assert len(full) <= 8 and not any(b - a == 1 and twice[a] == twice[b] for a, b in pairwise(full[:-1]))


def test_a_run_of_one_step_is_full():
    assert placed(usual(1), 2) == (0,) and Spread(0.5).places(1) == (0,)
    assert Spread(0.1).places(3) == (0, 2)


def test_times_that_rise_are_placed_as_well():
    """An inversion: dense where there is little noise, which is early."""
    back = tuple(reversed(usual(50)))
    gaps = [b - a for a, b in pairwise(placed(back, 16))]
    assert gaps[0] < gaps[-1] and len(gaps) == 15


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.345, 0.5, 0.9, 0.99, 1])
def test_spread_has_its_share_whatever_the_count(share):
    for count in (1, 2, 3, 7, 20, 50, 99, 250):
        full = Spread(share).places(count)
        assert len(full) == min(count, max(2, int(share * count + 1e-9)))
        assert full[0] == 0 and full[-1] == count - 1
        assert full == Spread(share).places(count, usual(count))


def test_spread_leaves_so_many_full_steps_at_least_and_short_runs_alone():
    assert len(Spread(0.1, least=10).places(50)) == 10
    assert Spread(0.1, least=10).places(8) == tuple(range(8))
    assert Spread(0.1, shortest=9).places(8) == tuple(range(8)) and len(Spread(0.1, shortest=9).places(9)) == 2


def test_an_interval_is_a_share_with_both_bounds():
    assert every(3) == Spread(1 / 3, None, LEAST, SHORTEST) and not Spread.every(1, None, 0, 12).caches
    for interval, counts in {2: (25, 10, 7), 3: (16, 7, 7), 4: (12, 7, 7)}.items():
        assert tuple(len(every(interval).places(count)) for count in (50, 20, 12)) == counts
    assert all(every(2).places(count) == tuple(range(count)) for count in range(1, SHORTEST))


def test_spread_reads_the_scheduler_s_flow_times():
    assert spread(Spread(1 / 3), 28, times=SHIFTED) == list(placed(SHIFTED, 9))
    assert spread(Spread(1 / 3), 28, times=usual(28)) != spread(Spread(1 / 3), 28, times=SHIFTED)
    unknown = spread(Spread(1 / 3), 28, scheduler="Odd")
    assert unknown == list(placed(even(28), 9)), "a scheduler whose levels cannot be read"
    assert spread(Spread(1 / 3), 28) == list(placed(usual(28), 9)), "timesteps that a client said"


def test_spread_over_a_part_of_a_run_places_its_share_there():
    """img2img: the run begins at a position, and has a share of what is left."""
    for start in (20, 35):
        part = spread(Spread(1 / 3), 50, range(start, 50), times=usual(50))
        assert part == list(placed(usual(50)[start:], (50 - start) // 3))
    whole = Spread(0.2).places(50)
    assert spread(Spread(0.2), 50, range(30), times=usual(50)) == [p for p in whole if p < 30], "a run that stops early"


def test_spread_where_nothing_tells_the_count_is_even_and_keeps_its_share():
    assert spread(Spread(1 / 3), steps=10) == [0, 3, 6, 9]
    for share in (0.1, 0.26, 0.345, 0.7, 0.95):
        full = spread(Spread(share), steps=1000)
        gaps = [b - a for a, b in pairwise(full)]
        assert len(full) == pytest.approx(1000 * share, abs=1) and max(gaps) - min(gaps) <= 1


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

        assert full == LEAST or gain(full) >= speedup - 1e-9
        assert full == count or gain(full + 1) < speedup


def said(policy, count, **seen):
    return policy.note(view(count=count, position=seen.pop("position", 0), **seen))


def test_what_is_given_in_place_of_what_was_asked_for_is_said():
    assert said(every(3), 50, times=usual(50)) is None and said(every(2), 20, times=usual(20)) is None
    assert "7 of 20 steps are full, not 6, so that block evaluations fall by 2.86x" in said(every(3), 20)
    assert "7 of 20 steps are full, not 4, so that block evaluations fall by 2.86x" in said(
        Spread.reaching(5, 0, 12), 20
    )
    assert "fall by 1.18x" in said(Spread.reaching(1.9, 6, 12), 10), "a cached step costs a half"
    assert "7 of 15 steps are full, not 5" in said(every(3), 50, position=35)


def test_a_run_that_may_gain_nothing_is_said():
    assert "8 of 24 steps are full: with fewer than 10" in said(every(3), 24)
    assert "all 8 steps of a run are full: in fewer than 9, as distilled models take" in said(every(3), 8)
    assert "all 8 steps of a run are full" in said(every(2), 20, position=12)
    assert "16 of 50 steps are full, evenly placed: the noise levels of Odd" in said(every(3), 50, scheduler="Odd")


def test_nothing_is_said_where_no_length_is_known_or_the_choice_was_the_user_s_own():
    assert said(every(3), None) is None and said(Spread.every(1, None, 0, 12), 6) is None
    assert said(Spread(0.2), 20) is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Spread("0.2"), TypeError, "a number for share, got '0.2'"),
        (lambda: Spread(True), TypeError, "a number for share, got True"),
        (lambda: Spread(0), ValueError, "0 < share <= 1, got 0"),
        (lambda: Spread(1.1), ValueError, "0 < share <= 1, got 1.1"),
        (lambda: Spread(0.2, steps=2.5), TypeError, "an int for steps, got 2.5"),
        (lambda: Spread(0.2, steps=0), ValueError, "steps >= 1, got 0"),
        (lambda: Spread(0.2, least="2"), TypeError, "an int for least, got '2'"),
        (lambda: Spread(0.2, least=0), ValueError, "least >= 1, got 0"),
        (lambda: Spread(0.2, shortest=0), ValueError, "shortest >= 1, got 0"),
        (lambda: Spread(0.2, cost="1"), TypeError, "a number for cost, got '1'"),
        (lambda: Spread.reaching("2", 2, 12), TypeError, "speedup: expected a number, got '2'"),
        (lambda: Spread.reaching(0.9, 2, 12), ValueError, "speedup: expected at least 1, got 0.9"),
        (lambda: Spread.reaching(float("nan"), 2, 12), ValueError, "at least 1, got nan"),
        (lambda: Spread.reaching(6, 2, 12), ValueError, "less than 6, got 6: a cached step runs 2 of 12 units"),
    ],
)
def test_spread_says_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()
