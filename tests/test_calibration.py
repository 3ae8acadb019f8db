"""Calibration: placements are the best there are, the model is left plain, and what cannot be is refused."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler

import skipcache
import skipcache.training
from skipcache import Calibration, Schedule
from skipcache.calibration import place
from skipcache.policy import Placed, Step
from tests.pipelines import dit, run_dit
from tests.sampling import build, equal, sample, state

STEPS = 12


@dataclass(frozen=True)
class Exactly:
    """A policy of the user's own."""

    full_steps: tuple[int, ...]
    caches: bool = True

    def full(self, step):
        return step.index in self.full_steps


def calibrated(name="original_dit", **goal):
    model = build(name)
    goal = goal or {"full_steps": 5}
    return model, skipcache.calibrate(model, lambda: sample(name, model, steps=STEPS, seed=5), **goal)


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
            assert found[k][0] == pytest.approx(best) and cost(found[k][1]) == pytest.approx(best)
            assert len(found[k][1]) == k


@pytest.mark.parametrize("name", ["original_dit", "latte", "sd3"])
def test_the_model_is_left_plain_and_then_runs_as_placed(name):
    model = build(name)
    before = state(model)
    found = skipcache.calibrate(model, lambda: sample(name, model, steps=STEPS, seed=5), full_steps=5)
    assert state(model) == before
    assert len(found.full_steps) == 5 and found.full_steps[0] == 0
    assert found.model == type(model).__name__ and len(found.timesteps) == STEPS
    assert found.speedup > 1 and 0 < found.error < 1
    exactly = Exactly(found.full_steps)
    expected = sample(name, skipcache.accelerate(build(name), policy=exactly), steps=STEPS)
    for engine in ("fx", "hooks"):
        skipcache.accelerate(model, calibration=found, engine=engine)
        assert equal(sample(name, model, steps=STEPS), expected)
        assert skipcache.report(model).full_at == found.full_steps
        skipcache.restore(model)


def test_all_steps_full_are_exact():
    model, found = calibrated(full_steps=STEPS)
    plain = sample("original_dit", model, steps=STEPS)
    skipcache.accelerate(model, calibration=found)
    assert equal(sample("original_dit", model, steps=STEPS), plain)


def test_goals():
    _, fast = calibrated(speedup=1.5)
    assert fast.speedup >= 1.5
    model, _ = calibrated(full_steps=len(fast.full_steps))
    _, near = calibrated(max_error=fast.error * 0.7)
    assert near.error <= fast.error * 0.7 and len(near.full_steps) > len(fast.full_steps)
    assert calibrated(max_error=1e9)[1].speedup >= fast.speedup
    assert len(calibrated(max_error=0)[1].full_steps) == STEPS
    skipcache.accelerate(model, calibration=fast)
    sample("original_dit", model, steps=STEPS)
    assert skipcache.report(model).ideal_speedup == pytest.approx(fast.speedup, rel=1e-3)


def test_on_a_pipeline_the_scheduler_tells_steps_apart():
    pipe = dit()
    pipe.scheduler = DDIMScheduler()
    seen = []
    found = skipcache.calibrate(
        pipe, lambda: run_dit(pipe, steps=8), full_steps=4, on_step=lambda done, total: seen.append((done, total))
    )
    assert found.scheduler == "DDIMScheduler" and len(found.timesteps) == 8
    assert seen == [(i, 8) for i in range(1, 9)]
    skipcache.accelerate(pipe, calibration=found)
    run_dit(pipe, steps=8)
    assert skipcache.report(pipe).full_at == found.full_steps
    skipcache.reset(pipe)
    run_dit(pipe, steps=16)
    report = skipcache.report(pipe)
    assert report.full_steps == len(found.full_steps) and report.cached_steps == 12


def walk(policy, timesteps, count=None):
    full = []
    for i, t in enumerate(timesteps):
        before = (lambda t=timesteps[i - 1]: (t,)) if i else None
        full.append(policy.full(Step(i, lambda t=t: (t,), before, lambda: -1, count)))
    return tuple(i for i, is_full in enumerate(full) if is_full)


@pytest.mark.parametrize("turn", [1, -1])
def test_other_step_counts_are_placed_by_timestep(turn):
    timesteps = tuple(turn * float(t) for t in range(990, -10, -20))
    policy = Placed((0, 1, 5, 12, 30, 47, 49), timesteps)
    assert walk(policy, timesteps, len(timesteps)) == walk(policy, timesteps) == policy.full_steps
    twice = tuple(turn * float(t) for t in range(990, 0, -10))
    assert [twice[i] for i in walk(policy, twice, len(twice))] == [timesteps[i] for i in policy.full_steps]
    half = timesteps[::2]
    full = walk(policy, half, len(half))
    assert full[0] == 0 and len(full) <= 7 and 15 in full  # 30 of the calibrated run
    img2img = timesteps[10:]
    assert walk(policy, img2img, len(img2img)) == (0, 2, 20, 37, 39)
    assert walk(policy, (turn * 2000.0, turn * 990.0, turn * -50.0)) == (0, 2)


def test_files(tmp_path):
    _, found = calibrated()
    path = found.save(tmp_path / "deep" / "found.json")
    assert Calibration.load(path) == found
    whole = path.read_text()
    texts = {"cut": whole[: len(whole) // 2], "other": "{}", "list": "[]", "more": whole[:-3] + ', "x": 1}'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="no calibration"):
            Calibration.load(tmp_path / name)
    with pytest.raises(ValueError, match="found none"):
        Calibration.load(tmp_path / "none")


def test_another_model_is_refused():
    _, found = calibrated()
    other = build("yesterday")
    before = state(other)
    with pytest.raises(ValueError, match="made for a OriginalDiT of 4 units, but the model is a Yesterday of 5"):
        skipcache.accelerate(other, calibration=found)
    assert state(other) == before
    for options in ({"interval": 3}, {"keep": 1}, {"policy": Schedule([0])}, {"predictor": skipcache.Hold()}):
        with pytest.raises(ValueError, match="leave out"):
            skipcache.accelerate(build("original_dit"), calibration=found, **options)
    with pytest.raises(TypeError, match="calibration"):
        skipcache.accelerate(build("original_dit"), calibration="found.json")


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


def test_a_run_that_raises_leaves_the_model_plain():
    model = build("original_dit")
    before, calls = state(model), itertools.count()

    def run():
        sample("original_dit", model, steps=4)
        if next(calls):
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
