"""`Spread`: a share of the steps by a power law, whatever the count."""

from itertools import pairwise

import pytest

from skipcache import Spread
from skipcache.policies.base import Step


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
