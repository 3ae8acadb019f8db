"""The runs of one calibration: one uncached, and trials that are compared with it."""

import pytest
import torch

from skipcache.calibration.runs import Cost, Runs
from skipcache.engines.hooks.engine import HookEngine
from skipcache.stack import make_plan
from tests.models.sampling import state
from tests.models.traces import STACK, arguments, glued

TIMES = tuple(0.95 - 0.1 * i for i in range(9))


def made(run=None, keeps=(0, 1)):
    model = glued()
    engines = [HookEngine(model, STACK, make_plan(4, keep)) for keep in keeps]

    def sample():
        x, _ = arguments()
        for t in TIMES:
            x = x - 0.05 * model(x, torch.full((2,), t))["eps"]

    said = []
    return model, Runs(model, engines, None, run or sample, said.append), said


def test_a_speedup_is_that_of_all_steps_over_those_made():
    cost = Cost(full=100, cached=20)
    assert cost.speedup(10, 10) == 1 and cost.speedup(2, 10) == 1000 / (2 * 100 + 8 * 20)


def test_costs_are_counted_within_the_uncached_run_which_stays_as_it_was():
    model, runs, said = made()
    before = state(model)
    asked = []
    runs.sample_uncached(lambda costs, steps: asked.append((list(costs), steps)) or 5)
    assert state(model) == before and runs.steps == len(TIMES)
    assert runs.uncached.trajectories.tensors == [], "its features are not held on to"
    assert [cost.full for cost in runs.costs] == [runs.costs[0].full] * 2
    assert runs.costs[0].cached < runs.costs[1].cached < runs.costs[0].full, "keep=0 costs less than keep=1"
    assert asked == [(runs.costs, None)], "no scheduler tells the number of steps"
    assert runs.uncached.knots == (1, 2, 3, 5) and set(said) == {"keep (0, 0): the uncached run"}


def test_a_trial_runs_cached_from_its_placement_and_is_compared():
    model, runs, said = made()
    runs.sample_uncached(lambda costs, steps: 3)
    before = state(model)
    full = runs.trial(runs.engines[1], tuple(range(len(TIMES))))
    cached = runs.trial(runs.engines[1], (0, 3, 6))
    assert state(model) == before and said[-1] == "keep (1, 1): trying 3 full steps"
    for ours, theirs in zip(full.seen[0], runs.uncached.seen[0]):
        assert torch.equal(ours[0].x, theirs[0].x) and torch.equal(ours[0].e, theirs[0].e)
    assert not torch.equal(cached.seen[0][-1][0].x, runs.uncached.seen[0][-1][0].x)
    maps = runs.maps(runs.engines[1])
    assert maps.error(full) == 0 < maps.error(cached) and runs.maps(runs.engines[0]) is maps, "learned once"


def test_the_sampler_is_learned_from_the_runs():
    """x_next = x - 0.05 e. Of x and the x before it, which go together, only the sum of both is known."""
    _, runs, _ = made()
    runs.sample_uncached(lambda costs, steps: 3)
    known = [m for m in runs.maps(runs.engines[0]).by_step if m is not None]
    assert len(known) > 4 and known[0].x == 0, "at the first cached step both runs have one x"
    assert [m.x + m.x_before for m in known[2:]] == pytest.approx([1] * (len(known) - 2), abs=1e-2)
    assert [m.total for m in known] == pytest.approx([-0.05] * len(known), abs=1e-3)


def test_a_run_that_never_calls_the_model_is_refused():
    model, runs, _ = made(run=lambda: None)
    before = state(model)
    with pytest.raises(ValueError, match="it never called Glued with a sample and a timestep"):
        runs.sample_uncached(lambda costs, steps: 3)
    assert state(model) == before
