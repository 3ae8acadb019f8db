"""What `accelerate(pipe, interval=n)` is: full steps placed in flow time, where the length of the run is known."""

import warnings
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, IPNDMScheduler, StableDiffusion3Img2ImgPipeline

import skipcache
from skipcache import Interval, Spread
from skipcache.policies.spread import even, usual
from skipcache.trajectory.time import current_runs
from tests.models import pipelines
from tests.models.pipelines import PIPELINES, randn
from tests.models.sampling import build, equal, sample


def times_of(pipe):
    return current_runs([pipe.scheduler])[0].times


@pytest.mark.parametrize("name", PIPELINES)
def test_on_a_pipeline_an_interval_is_a_share_of_the_run_placed_in_flow_time(name):
    """On both engines alike; nothing is said where at least ten steps are full."""
    make, run = PIPELINES[name]
    made = []
    for engine in ("fx", "hooks"):
        pipe = skipcache.accelerate(make(), interval=2, engine=engine)
        made.append(run(pipe, steps=20))
        report = skipcache.report(pipe)
        assert report.full_at == Spread(1 / 2).places(20, times_of(pipe)) and len(report.full_at) == 10
        assert report.reasons == () and report.blocks_run == report.blocks_saved, "no block runs on a cached step"
        assert report.largest_gap == max(b - a for a, b in pairwise(report.full_at))
    assert torch.equal(*made)


def test_three_is_the_interval_that_nobody_gave():
    pipe = skipcache.accelerate(pipelines.dit())
    assert skipcache.accelerate(pipe, interval=3) is pipe
    pipelines.run_dit(pipe, steps=30)
    assert skipcache.report(pipe).full_at == Spread(1 / 3).places(30, times_of(pipe))


def test_interval_one_is_plain_and_the_strict_rule_is_a_policy():
    pipe = pipelines.dit()
    plain = pipelines.run_dit(pipe, steps=12)
    with skipcache.accelerated(pipe, interval=1):
        assert torch.equal(pipelines.run_dit(pipe, steps=12), plain)
    with skipcache.accelerated(pipe, policy=Interval(3)):
        pipelines.run_dit(pipe, steps=12)
        report = skipcache.report(pipe)
        assert report.full_at == (0, 3, 6, 9) and report.largest_gap == 3 and report.reasons == ()


def test_where_fewer_full_steps_than_asked_for_would_be_no_gain_a_warning_says_what_is_given():
    pipe = skipcache.accelerate(pipelines.dit(), interval=4)
    with pytest.warns(UserWarning, match="skipcache: 7 of 20 steps are full, not 5, .* fall by 2.86x: ") as said:
        pipelines.run_dit(pipe, steps=20)
    assert len(said) == 1 and skipcache.report(pipe).full_steps == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipelines.run_dit(pipe, steps=20), pipelines.run_dit(pipe, steps=50)
    (reason,) = skipcache.report(pipe).reasons
    assert reason in str(said[0].message)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_in_few_steps_nothing_is_cached_and_that_is_said(steps):
    pipe = pipelines.dit()
    plain = pipelines.run_dit(pipe, steps=steps)
    skipcache.accelerate(pipe, speedup=2)
    with pytest.warns(UserWarning, match=f"all {steps} steps of a run are full: in fewer than"):
        assert torch.equal(pipelines.run_dit(pipe, steps=steps), plain)
    assert skipcache.report(pipe).cached_steps == 0


def test_img2img_has_its_share_of_the_part_that_runs():
    pipe = skipcache.accelerate(pipelines.sd3(StableDiffusion3Img2ImgPipeline), interval=2)
    image = randn(1, 3, 16, 16).clamp(-1, 1)
    pipelines.run_sd3(pipe, steps=40, strength=0.6, image=image)
    report = skipcache.report(pipe)
    assert report.full_steps == report.cached_steps == 12
    assert report.full_at == Spread(1 / 2).places(24, times_of(pipe)[16:])
    with pytest.warns(UserWarning, match="all 8 steps of a run are full"):
        pipelines.run_sd3(pipe, steps=40, strength=0.2, image=image)


@pytest.mark.parametrize(
    "scheduler",
    [DDPMScheduler(), DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")],
    ids=lambda x: type(x).__name__,
)
def test_samplers_that_draw_noise_have_the_same_places(scheduler):
    make, run = PIPELINES["pixart_sigma"]
    pipe = make()
    pipe.scheduler = scheduler
    skipcache.accelerate(pipe, interval=3)
    run(pipe, steps=30)
    assert skipcache.report(pipe).full_at == Spread(1 / 3).places(30, times_of(pipe))


def test_where_noise_levels_cannot_be_read_full_steps_stand_evenly_and_that_is_said():
    make, run = PIPELINES["pixart_sigma"]
    pipe = make()
    pipe.scheduler = IPNDMScheduler()
    skipcache.accelerate(pipe, interval=2)
    with pytest.warns(UserWarning, match="evenly placed: the noise levels of IPNDMScheduler cannot be read"):
        run(pipe, steps=20)
    assert skipcache.report(pipe).full_at == Spread(1 / 2).places(20, even(20))


def test_a_bare_model_is_cached_evenly_unless_its_length_is_given():
    model = build("original_dit")
    for settings, expected in (
        ({"interval": 3}, tuple(range(0, 30, 3))),
        ({"interval": 3, "steps": 30}, Spread(1 / 3).places(30, usual(30))),
        ({"speedup": 3, "steps": 30}, Spread(1 / 3).places(30, usual(30))),
    ):
        with skipcache.accelerated(model, **settings):
            sample("original_dit", model, steps=30)
            assert skipcache.report(model).full_at == expected
    with pytest.raises(ValueError, match=r"steps=30: Interval.* has settings of its own"):
        skipcache.accelerate(model, policy=Interval(3), steps=30)
    plain = sample("original_dit", model, steps=30)
    with skipcache.accelerated(model, interval=1, steps=30):
        assert equal(sample("original_dit", model, steps=30), plain)


def test_with_skip_branches_a_unit_stays_at_each_end():
    model = skipcache.accelerate(build("hunyuan_dit"), interval=2, steps=20)
    plan = model.__dict__["forward"].settings.plan
    assert (plan.head, plan.tail) == (1, 1)
