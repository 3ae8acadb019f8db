"""What is added to the output and what slopes are multiplied by: the sums, and in which runs."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DEISMultistepScheduler

import skipcache
from skipcache.runtime.corrections import Corrections
from tests.models.calibrations import STEPS, Guided
from tests.models.originals import OriginalDiT
from tests.models.pipelines import dit, run_dit
from tests.models.sampling import build, equal, sample


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
