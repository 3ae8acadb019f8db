"""Placements are the best of all there are, out of errors that were measured at knots."""

import itertools
import math

import pytest
import torch

from skipcache.calibration.errors import interpolated
from skipcache.calibration.placement import place


def test_placements_are_the_best_of_all():
    steps, gaps, generator = 9, (1, 2, 3), torch.Generator().manual_seed(0)
    errors = {(0, 0, t): torch.rand((), generator=generator).item() for t in range(1, 3)}
    for gap, s in itertools.product(gaps, range(1, steps)):
        for t in range(s + 1, min(s + 3, steps)):
            errors[gap, s, t] = torch.rand((), generator=generator).item()

    def cost(placed):
        total = 0.0
        for i, s in enumerate(placed):
            end = placed[i + 1] if i + 1 < len(placed) else steps
            gap = s - placed[i - 1] if i else 0
            total += sum(errors.get((gap, s, t), math.inf) for t in range(s + 1, end))
        return total

    found = place(errors, steps, gaps, steps)
    for k in range(1, steps + 1):
        every = [(0, *rest) for rest in itertools.combinations(range(1, steps), k - 1)]
        allowed = [p for p in every if all(b - a in gaps for a, b in itertools.pairwise(p))]
        best = min(map(cost, allowed), default=math.inf)
        if math.isinf(best):
            assert k not in found
        else:
            assert found[k].cost == pytest.approx(best) and cost(found[k].full_steps) == pytest.approx(best)
            assert len(found[k].full_steps) == k


def test_errors_between_knots_lie_on_lines():
    def error(gap, ahead, t):
        return (2 * ahead + 3 * gap) * t if gap else 4 * ahead

    knots, steps = (1, 2, 4), 12
    pairs = [(g, a, t) for g in knots for a in knots for t in range(steps) if t - a - g >= 0]
    measured = {key: error(*key) for key in [*pairs, *((0, a, a) for a in knots)]}
    found = interpolated(measured, steps, knots)
    for t, s in itertools.product(range(10, steps), range(6, steps)):
        for gap in range(1, 5):
            if 1 <= t - s <= 4:
                assert found[gap, s, t] == pytest.approx(error(gap, t - s, t))
    assert [found[0, 0, t] for t in (1, 2, 3, 4)] == [4, 8, 12, 16] and (0, 0, 5) not in found
    assert all(1 <= t - s <= 4 and gap <= min(s, 4) for gap, s, t in found if gap)
