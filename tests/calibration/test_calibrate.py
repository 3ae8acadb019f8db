"""`calibrate`: the model is left plain, goals are reached, and what cannot be is refused."""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import pytest
from diffusers import DDIMScheduler

import skipcache
import skipcache.training
from tests.models.calibrations import STEPS, calibrated
from tests.models.pipelines import dit, run_dit
from tests.models.sampling import build, equal, sample, state


@dataclass(frozen=True)
class Exactly:
    """A policy of the user's own."""

    full_steps: tuple[int, ...]
    caches: bool = True

    def full(self, step):
        return step.index in self.full_steps


@pytest.mark.parametrize("name", ["original_dit", "latte", "sd3"])
def test_the_model_is_left_plain_and_then_runs_as_placed(name):
    model = build(name)
    before = state(model)
    run = partial(sample, name, model, STEPS, 5)
    found = skipcache.calibrate(model, run, full_steps=5, keep=1, correct=False, progress=False)
    assert state(model) == before
    assert len(found.full_steps) == 5 and found.full_steps[0] == 0
    assert found.model == type(model).__name__ and len(found.timesteps) == STEPS
    assert found.speedup > 1 and 0 < found.error < 1 and found.corrections is None
    exactly = Exactly(found.full_steps)
    by_hand = skipcache.accelerate(build(name), policy=exactly, predictor=found.predictor)
    expected = sample(name, by_hand, steps=STEPS)
    for engine in ("fx", "hooks"):
        skipcache.accelerate(model, calibration=found, engine=engine)
        assert equal(sample(name, model, steps=STEPS), expected)
        report = skipcache.report(model)
        assert report.full_at == found.full_steps and not report.reasons
        skipcache.restore(model)


def test_all_steps_full_are_exact():
    model, found = calibrated(full_steps=STEPS)
    assert found.corrections is None and found.error == 0
    plain = sample("original_dit", model, steps=STEPS)
    skipcache.accelerate(model, calibration=found)
    assert equal(sample("original_dit", model, steps=STEPS), plain)


def test_it_costs_one_uncached_run_and_few_cached_ones():
    """Errors are measured on the run that the others are compared with: at no other time do all steps run in full."""
    model, runs = build("dit"), []
    inside = model.transformer_blocks[2].ff

    def run():
        calls = []
        handle = inside.register_forward_pre_hook(lambda *_: calls.append(1))
        sample("dit", model, steps=STEPS)
        handle.remove()
        runs.append(len(calls))

    skipcache.calibrate(model, run, full_steps=6, progress=False)
    assert sum(calls >= STEPS for calls in runs) == 1 and len(runs) <= 9


def test_goals():
    model, fast = calibrated(speedup=1.5, keep=1)
    assert fast.speedup >= 1.5 and fast.keep == (1, 1)
    _, near = calibrated(max_error=fast.error * 0.5, keep=1)
    assert near.error <= fast.error * 0.5 and len(near.full_steps) > len(fast.full_steps)
    assert calibrated(max_error=1e9)[1].speedup >= fast.speedup
    assert len(calibrated(max_error=0)[1].full_steps) == STEPS
    skipcache.accelerate(model, calibration=fast)
    sample("original_dit", model, steps=STEPS)
    assert skipcache.report(model).ideal_speedup == pytest.approx(fast.speedup, rel=1e-3)


def test_on_a_pipeline_the_scheduler_tells_steps_apart():
    pipe = dit()
    pipe.scheduler = DDIMScheduler()
    found = skipcache.calibrate(pipe, lambda: run_dit(pipe, steps=8), full_steps=4, progress=False)
    assert found.scheduler == "DDIMScheduler" and len(found.timesteps) == 8
    skipcache.accelerate(pipe, calibration=found)
    run_dit(pipe, steps=8)
    assert skipcache.report(pipe).full_at == found.full_steps
    skipcache.reset(pipe)
    run_dit(pipe, steps=16)
    report = skipcache.report(pipe)
    assert report.full_steps == len(found.full_steps) and report.cached_steps == 12


def test_runs_that_cannot_be_calibrated_on():
    model = build("original_dit")
    before = state(model)
    lengths, seeds = itertools.count(6), itertools.count()
    for run, message in (
        (lambda: None, "never called"),
        (lambda: sample("original_dit", model, steps=next(lengths)), "another number of times"),
        (lambda: sample("original_dit", model, steps=6, seed=next(seeds)), "equal inputs; seed"),
        (lambda: [sample("original_dit", model, steps=n) for n in (5, 6)], "runs of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            skipcache.calibrate(model, run, full_steps=3)
        assert state(model) == before


@pytest.mark.parametrize(
    ("goal", "error", "message"),
    [
        ({}, ValueError, "one of speedup"),
        ({"speedup": 2, "full_steps": 4}, ValueError, "one of speedup"),
        ({"speedup": 500}, ValueError, "out of reach"),
        ({"speedup": 0.5}, ValueError, "at least 1"),
        ({"speedup": "2"}, TypeError, "a number"),
        ({"full_steps": 1}, ValueError, "at least 2"),
        ({"full_steps": 2.5}, TypeError, "an int"),
        ({"full_steps": 40}, ValueError, "at most 12"),
        ({"max_error": -1}, ValueError, "at least 0"),
        ({"speedup": math.nan}, ValueError, "at least 1"),
    ],
)
def test_goals_that_cannot_be_reached(goal, error, message):
    model = build("original_dit")
    before = state(model)
    with pytest.raises(error, match=message):
        skipcache.calibrate(model, lambda: sample("original_dit", model, steps=STEPS), **goal)
    assert state(model) == before


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_run_that_raises_leaves_the_model_plain(number):
    model = build("original_dit")
    before, calls = state(model), itertools.count()

    def run():
        sample("original_dit", model, steps=4)
        if next(calls) == number:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        skipcache.calibrate(model, run, full_steps=2)
    assert state(model) == before
    with pytest.raises(ValueError, match="restore before"):
        skipcache.calibrate(skipcache.accelerate(model), run, full_steps=2)
    with pytest.raises(TypeError, match="callable"):
        skipcache.calibrate(build("original_dit"), None, full_steps=2)


def test_a_model_with_branches_of_its_own_keeps_equal_ends():
    model = build("hunyuan_dit")
    with pytest.raises(ValueError, match="head = tail >= 1"):
        skipcache.calibrate(model, lambda: sample("hunyuan_dit", model), full_steps=3, keep=0)
    with pytest.raises(ValueError, match="head = tail >= 1"):
        skipcache.training.full_forward(model, keep=0)
