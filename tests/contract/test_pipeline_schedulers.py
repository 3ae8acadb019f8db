"""Steps of real pipelines are the positions in their schedulers, whichever these are and whoever loops."""

import contextlib
import copy
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
)

import skipcache
from skipcache import Forecast, Hold, Interval, Spread
from skipcache.policies.spread import even
from skipcache.trajectory.time import current_runs
from tests.models import pipelines
from tests.models.pipelines import PIPELINES, fresh, randn


def test_img2img_enters_the_schedule_half_way():
    pipe = pipelines.sd3(StableDiffusion3Img2ImgPipeline)
    skipcache.accelerate(pipe, policy=skipcache.Interval(3))
    image = randn(1, 3, 16, 16).clamp(-1, 1)
    first = pipelines.run_sd3(pipe, steps=10, strength=0.6, image=image)
    assert skipcache.report(pipe).full_at == (0, 3)
    assert torch.equal(pipelines.run_sd3(pipe, steps=10, strength=0.6, image=image), first)


@pytest.mark.parametrize("at", [0, 2, 3])
def test_img2img_goes_on_lower_than_a_run_that_was_left(at):
    """By their timesteps alone the two would be one falling run."""
    one = pipelines.sd3()
    other = pipelines.sd3(StableDiffusion3Img2ImgPipeline)
    image = randn(1, 3, 16, 16).clamp(-1, 1)
    expected = pipelines.run_sd3(
        skipcache.accelerate(other, policy=skipcache.Interval(3)), steps=10, strength=0.4, image=image
    )
    other = pipelines.sd3(StableDiffusion3Img2ImgPipeline)
    other.transformer = one.transformer
    skipcache.accelerate(one, policy=skipcache.Interval(3))
    skipcache.accelerate(other, policy=skipcache.Interval(3))

    def leave(pipe, step, timestep, kwargs):
        if step == at:
            raise KeyboardInterrupt
        return kwargs

    with pytest.raises(KeyboardInterrupt):
        pipelines.run_sd3(one, steps=10, callback_on_step_end=leave)
    assert torch.equal(pipelines.run_sd3(other, steps=10, strength=0.4, image=image), expected)
    assert skipcache.report(other).full_at == (0, 3)


SCHEDULERS = {
    "ddim": (DDIMScheduler, (0, 3, 6)),
    "ddpm": (DDPMScheduler, (0, 3, 6)),
    "dpm++ 2m": (DPMSolverMultistepScheduler, (0, 3, 6)),
    "euler ancestral": (EulerAncestralDiscreteScheduler, (0, 3, 6)),
    "pndm": (PNDMScheduler, (0, 3, 6)),  # repeats its second timestep
    "heun": (HeunDiscreteScheduler, (0, 3, 6, 9, 12)),  # two evaluations a step
    "kdpm2 ancestral": (KDPM2AncestralDiscreteScheduler, (0, 3, 6, 9, 12)),  # falls and rises
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_step_is_the_position_in_the_scheduler(kind):
    """By a pipeline, and by a reference loop that counts the calls and replaces the deep blocks itself."""
    cls, full_at = SCHEDULERS[kind]
    make, run = PIPELINES["pixart_sigma"]
    pipe = make()
    pipe.scheduler = cls()
    skipcache.accelerate(pipe, policy=skipcache.Interval(3), predictor=Hold())
    first = run(pipe)
    report = skipcache.report(pipe)
    assert report.full_at[: len(full_at)] == full_at and report.full_steps == len(report.full_at)
    assert torch.equal(run(pipe), first)

    plain = make()
    plain.scheduler = cls()
    calls, kept = iter(range(1000)), {}

    def hold(module, args, output):
        if next(calls) % 3:
            return kept["D"]
        kept["D"] = output
        return None

    plain.transformer.transformer_blocks[-2].register_forward_hook(hold)
    assert torch.equal(run(plain), first)


@pytest.mark.parametrize(
    ("scheduler", "noisy"),
    [
        (DDIMScheduler(), False),
        (DPMSolverMultistepScheduler(), False),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), True),
        (DDPMScheduler(), True),
        (EulerAncestralDiscreteScheduler(), True),
        (KDPM2AncestralDiscreteScheduler(), True),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, bool) else "",
)
def test_a_speedup_is_placed_by_the_scheduler_s_noise_levels_and_the_bound_holds(scheduler, noisy):
    make, run = PIPELINES["pixart_sigma"]
    pipe = make()
    pipe.scheduler = scheduler
    skipcache.accelerate(pipe, speedup=1.5)
    run(pipe, steps=20)
    report = skipcache.report(pipe)
    count = report.full_steps + report.cached_steps
    run_of_it = current_runs([pipe.scheduler])[0]
    assert run_of_it.is_noisy is noisy, "it makes no difference"
    assert report.full_at == Spread(2 / 3).places(count, run_of_it.times) != Spread(2 / 3).places(count, even(count))
    assert report.largest_gap == max(b - a for a, b in pairwise(report.full_at)) <= 1 + 3 * count / report.full_steps


@pytest.mark.parametrize("cls", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_flow_matching(cls):
    pipe = pipelines.sd3()
    pipe.scheduler = cls()
    skipcache.accelerate(pipe, policy=skipcache.Interval(3))
    pipelines.run_sd3(pipe, steps=6)
    evaluations = 6 if cls is FlowMatchEulerDiscreteScheduler else 11
    assert skipcache.report(pipe).full_at == tuple(range(0, evaluations, 3))


def test_a_scheduler_that_is_replaced_is_read_anew():
    pipe, run = fresh("pixart_sigma")
    run(pipe)
    other, _ = fresh("pixart_sigma")
    other.scheduler = DDIMScheduler()
    pipe.scheduler = DDIMScheduler()
    assert torch.equal(run(pipe, steps=9), run(other, steps=9))
    assert skipcache.report(pipe).full_at == (0, 3, 6)


def test_a_deep_copy_of_a_pipeline_knows_its_own_scheduler():
    pipe, run = fresh("dit")
    expected = run(pipe)
    twin = copy.deepcopy(pipe)
    (served,) = twin.transformer.__dict__["forward"].pipelines.alive()
    assert served is twin
    assert torch.equal(run(twin), expected)
    assert skipcache.report(twin).full_steps == 3


def test_a_deep_copy_counts_the_evaluations_of_its_own_scheduler():
    """Without a scheduler the second evaluation of each of Heun's steps would be full."""
    pipe, run = fresh("pixart_sigma")
    pipe.scheduler = HeunDiscreteScheduler()
    twin = copy.deepcopy(pipe)
    del pipe
    run(twin, steps=6)
    assert skipcache.report(twin).full_at == (0, 3, 6, 9)


def test_a_loop_of_one_s_own_over_the_pipeline_s_model():
    """Another scheduler than the pipeline's: its timesteps are not positions in the pipeline's last run."""
    pipe, run = fresh("dit")
    run(pipe, steps=50)
    model = pipe.transformer
    scheduler = DDIMScheduler()
    x = randn(2, 4, 8, 8)
    labels = torch.tensor([1, 2])
    for _ in range(2):
        scheduler.set_timesteps(10)
        with torch.no_grad():
            for t in scheduler.timesteps.tolist():
                model(x, timestep=torch.full((2,), t), class_labels=labels)
                x = x * 0.9
        assert skipcache.report(pipe).full_at == (0, 3, 6, 9)


@pytest.mark.parametrize("left", [None, 0, 3])
def test_a_loop_of_one_s_own_at_a_thousandth_of_the_timestep(left):
    """The scheduler of the pipeline has stepped, and stands still: its count says nothing of this loop."""
    pipe, run = fresh("flux")

    def leave(pipe, step, timestep, kwargs):
        if step == left:
            raise KeyboardInterrupt
        return kwargs

    inputs = []
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, kwargs: inputs.append(kwargs), with_kwargs=True)
    with contextlib.suppress(KeyboardInterrupt):
        run(pipe, true_cfg_scale=1.0, callback_on_step_end=leave)
    handle.remove()

    def loop(model):
        x, outputs = inputs[0]["hidden_states"], []
        for t in torch.linspace(1, 0.2, 5):
            with torch.no_grad():
                kwargs = {**inputs[0], "hidden_states": x, "timestep": t.expand(1)}
                outputs.append(model(**kwargs)[0])
            x = x - outputs[-1] / 5
        return outputs

    found = loop(pipe.transformer)
    assert skipcache.report(pipe).full_at == (0, 3)
    expected = loop(skipcache.accelerate(pipelines.flux(), policy=skipcache.Interval(3)).transformer)
    assert all(map(torch.equal, found, expected))


def test_the_window_is_in_the_model_s_timesteps():
    pipe, run = fresh("pixart_sigma", policy=Interval(2, start=800, stop=300), predictor=Forecast(1))
    run(pipe, steps=10)
    timesteps = pipe.scheduler.timesteps.tolist()
    expected, closed = [], False
    for i, t in enumerate(timesteps):
        if i % 2 == 0 or t >= 800 or closed:
            expected.append(i)
        closed = closed or t <= 300
    assert skipcache.report(pipe).full_at == tuple(expected)
