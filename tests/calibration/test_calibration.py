"""Calibration: placements are the best there are, the model is left plain, and what cannot be is refused."""

import copy
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DEISMultistepScheduler

import skipcache
import skipcache.training
from skipcache import Calibration, Damped, Forecast, Schedule
from skipcache.calibration.errors import interpolated
from skipcache.calibration.placement import place
from skipcache.calibration.step_maps import StepMaps
from skipcache.calibration.watcher import Seen, Watcher, watch
from skipcache.policies.base import Step
from skipcache.policies.placed import Placed
from skipcache.runtime.corrections import Corrections
from tests.models.originals import OriginalDiT
from tests.models.pipelines import dit, run_dit
from tests.models.sampling import build, equal, sample, state

STEPS = 12


@dataclass(frozen=True)
class Exactly:
    """A policy of the user's own."""

    full_steps: tuple[int, ...]
    caches: bool = True

    def full(self, step):
        return step.index in self.full_steps


def calibrated(name="original_dit", **options):
    model = build(name)
    if not {"speedup", "max_error", "full_steps"} & options.keys():
        options["full_steps"] = 5
    return model, skipcache.calibrate(model, partial(sample, name, model, STEPS, 5), progress=False, **options)


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


@dataclass(frozen=True)
class Guided:
    """A linear sampler with guidance, of two rows for each sample or of two calls; `noise` is drawn at each step."""

    model: torch.nn.Module
    batched: bool = True
    noise: float = 0.0
    guidance: float = 4.0

    @torch.no_grad()
    def run(self, seed=3, keep=None):
        generator = torch.Generator().manual_seed(seed)
        x, labels = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([1, 2])
        null, before, states = torch.full((2,), 4), None, []
        for t in torch.linspace(990, 0, STEPS):
            states.append(x)
            if self.batched:
                both = self.model(torch.cat([x, x]), t.expand(4), torch.cat([null, labels]))[:, :4]
                without, asked = both.chunk(2)
            else:
                without, asked = (self.model(x, t.expand(2), y)[:, :4] for y in (null, labels))
            e = without + self.guidance * (asked - without)
            x = 0.98 * x - 0.3 * e + (0.0 if before is None else 0.05 * before)
            x, before = x + self.noise * torch.randn(x.shape, generator=generator), e
        return states


@pytest.mark.parametrize("sampler", [{}, {"noise": 0.3}, {"batched": False}])
def test_corrections_bring_states_back(sampler):
    model = build("original_dit")
    guided = Guided(model, **sampler)
    plain = guided.run()
    found = skipcache.calibrate(model, guided.run, full_steps=5, keep=0, progress=False)
    assert found.corrections is not None and found.guidance == pytest.approx(4, abs=0.05)

    def stray(calibration, engine="auto"):
        with skipcache.accelerated(model, calibration=calibration, engine=engine):
            states = guided.run()
        return states, (states[-1] - plain[-1]).norm() / plain[-1].norm()

    (states, near), (_, far) = stray(found, "fx"), stray(replace(found, corrections=None))
    assert near < far
    if guided.batched:  # what was fitted is what runs, and the last state is that of the calibration's own last trial
        assert near < 0.7 * far
    again, _ = stray(found, "hooks")
    assert equal(tuple(states), tuple(again))


def test_two_threads_run_one_calibrated_model():
    model = build("original_dit")
    guided = Guided(model)
    found = skipcache.calibrate(model, guided.run, full_steps=5, keep=0, progress=False)
    skipcache.accelerate(model, calibration=found)
    expected = [guided.run(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(guided.run, range(4)))
    assert found.corrections is not None
    assert all(equal(tuple(ours), tuple(theirs)) for ours, theirs in zip(outputs, expected))


def test_no_correction_touches_learned_variances():
    model = build("dit")
    found = skipcache.calibrate(model, lambda: sample("dit", model, steps=STEPS), full_steps=5, progress=False)
    outputs = []
    for calibration in (found, replace(found, corrections=Corrections((), found.corrections.slopes))):
        seen = []

        def call(seen=seen, **kwargs):
            fixed = {**kwargs, "hidden_states": torch.ones_like(kwargs["hidden_states"])}
            seen.append(model(**fixed)[0])
            return (seen[-1],)

        with skipcache.accelerated(model, calibration=calibration):
            sample("dit", model, steps=STEPS, call=call)
        outputs.append(seen)
    weighed = [i for i, w in enumerate(found.corrections.scalars) if any(w)]
    assert weighed
    for i, (ours, bare) in enumerate(zip(*outputs)):
        assert ours.shape[1] == 8 and torch.equal(ours[:, 4:], bare[:, 4:])
        assert torch.equal(ours[:, :4], bare[:, :4]) == (i not in weighed)


def test_corrections_are_for_runs_like_the_calibrated_one():
    pipe = dit()
    pipe.scheduler = DDIMScheduler()
    found = skipcache.calibrate(pipe, lambda: run_dit(pipe, steps=8), full_steps=4, progress=False)
    assert found.corrections is not None
    bare = replace(found, corrections=None)

    def sampled(calibration, **options):
        with skipcache.accelerated(pipe, calibration=calibration):
            return run_dit(pipe, **options), skipcache.report(pipe).reasons

    ours, silent = sampled(found, steps=8)
    assert not silent and not equal(ours, sampled(bare, steps=8)[0])
    ours, (reason,) = sampled(found, steps=10)
    assert "8 steps, this run has 10" in reason and "without corrections" in reason
    assert equal(ours, sampled(bare, steps=10)[0])
    pipe.scheduler = DEISMultistepScheduler()
    ours, (reason,) = sampled(found, steps=8)
    assert "made with DDIMScheduler, this run has DEISMultistepScheduler" in reason
    assert equal(ours, sampled(bare, steps=8)[0])


class Opaque(OriginalDiT):
    """Returns an object that pytree does not look into."""

    def forward(self, x, t, y):
        return SimpleNamespace(sample=super().forward(x, t, y))


def test_an_output_that_cannot_be_replaced_is_placed_alone():
    model = build("original_dit")
    model.__class__ = Opaque
    run = partial(sample, "original_dit", model, STEPS, 5)
    found = skipcache.calibrate(model, run, full_steps=5, progress=False)
    assert found.corrections is None and len(found.full_steps) == 5 and 0 < found.error < 1


def test_scalars():
    x, e, before = torch.full((1, 2), 2.0), torch.full((1, 2), 3.0), [torch.full((1, 2), 5.0), torch.full((1, 2), 9.0)]
    corrections = Corrections(((), (0.5, 1.0), (0.0, 0.0, 1.0, 0.25)))
    assert corrections.apply(0, x, e, before) is e and corrections.apply(7, x, e, before) is e
    assert corrections.apply(1, x, e, []).tolist() == [[7.0, 7.0]]  # 3 + 0.5 * 2 + 3
    assert corrections.apply(2, x, e, before).tolist() == [[6.0, 6.0]]  # 3 + (5 - 3) + 0.25 * (9 - 5)
    assert corrections.apply(2, x, e, before[:1]) is e
    assert [Corrections((), (1.0, 0.5)).slope(i) for i in range(3)] == [1.0, 0.5, 1.0]
    half = corrections.apply(1, x.half(), e.half(), [])
    assert half.dtype == torch.float16 and half.tolist() == [[7.0, 7.0]]
    with pytest.raises(ValueError, match="at most 4"):
        Corrections(((1.0,) * 5,))
    with pytest.raises(TypeError, match="numbers"):
        Corrections((("1",),))
    with pytest.raises(TypeError, match="slopes"):
        Corrections((), ("1",))


def test_slopes_are_fitted_where_a_line_is_followed():
    model = build("original_dit")
    guided = Guided(model)
    found = skipcache.calibrate(model, guided.run, full_steps=5, keep=0, progress=False)
    slopes, full = found.corrections.slopes, found.full_steps
    assert len(slopes) == STEPS
    assert all(slope == 1 for i, slope in enumerate(slopes) if i in full or i < full[1])
    assert all(slope != 1 for i, slope in enumerate(slopes[:-1]) if i not in full and i > full[1])

    def states(slopes):
        corrections = Corrections((), slopes)
        with skipcache.accelerated(model, calibration=replace(found, corrections=corrections), engine="fx"):
            return guided.run()

    sloped, straight, ones = states(slopes), states(()), states((1.0,) * STEPS)
    first = next(i for i in range(STEPS) if slopes[i] != 1)
    assert equal(tuple(straight), tuple(ones))
    assert equal(tuple(sloped[: first + 1]), tuple(straight[: first + 1]))
    assert not torch.equal(sloped[first + 1], straight[first + 1])
    with skipcache.accelerated(model, calibration=replace(found, corrections=Corrections((), slopes)), engine="hooks"):
        assert equal(tuple(guided.run()), tuple(sloped))


def test_one_sample_that_goes_another_way_does_not_hide_the_others():
    model = build("original_dit")
    plain = watch(Watcher(model, skipcache.find_stack(model), None), Guided(model).run)
    sampler = StepMaps(plain, plain)
    assert sampler.error(plain) == 0

    def error(*sizes):
        other = copy.deepcopy(plain)
        last = other.seen[0][-1][0]
        noise = torch.stack([size * last.e[i] for i, size in enumerate(sizes)])
        other.seen[0][-1][0] = Seen(last.x, last.e + noise)
        return sampler.error(other)

    assert error(0.01, 0.01, 0.01, 0.01) == pytest.approx(0.01, rel=1e-3)
    assert error(0.01, 1.0, 0.01, 1.0) == pytest.approx(0.1, rel=1e-3)
    assert 0 < error(0.0, 1.0, 0.0, 1.0) < 1e-4


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
    model = build("original_dit")
    found = skipcache.calibrate(model, Guided(model).run, full_steps=5, progress=False)
    path = found.save(tmp_path / "deep" / "found.json")
    assert Calibration.load(path) == found and found.corrections is not None
    damped = replace(found, damped=True, corrections=None)
    with pytest.raises(ValueError, match="slopes are those of Forecast"):
        replace(found, damped=True, corrections=replace(found.corrections, slopes=(0.5,)))
    assert Calibration.load(damped.save(tmp_path / "damped.json")) == damped
    assert (damped.predictor, found.predictor) == (Damped(), Forecast(1))
    whole = path.read_text()
    texts = {
        "cut": whole[: len(whole) // 2],
        "other": "{}",
        "list": "[]",
        "more": whole[:-2] + ', "x": 1}',
        "late": whole.replace('"full_steps": [0', '"full_steps": [99'),
    }
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
