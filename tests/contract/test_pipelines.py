"""Real pipelines, from `accelerate(pipe)` to `restore`: exact where it must be, and never a stale feature."""

import contextlib
import copy
import threading

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
from tests.models import pipelines
from tests.models.pipelines import randn

PIPELINES = {
    "dit": (pipelines.dit, pipelines.run_dit),
    "pixart_alpha": (pipelines.pixart, pipelines.run_pixart),
    "pixart_sigma": (pipelines.sigma, pipelines.run_pixart),
    "latte": (pipelines.latte, pipelines.run_latte),
    "sd3": (pipelines.sd3, pipelines.run_sd3),
    "flux": (pipelines.flux, pipelines.run_flux),
    "wan": (pipelines.wan, pipelines.run_wan),
}
each = pytest.mark.parametrize("name", PIPELINES)


def fresh(name, interval=3, **settings):
    make, run = PIPELINES[name]
    return skipcache.accelerate(make(), interval=interval, **settings), run


@each
def test_interval_one_and_restore_are_exact(name):
    make, run = PIPELINES[name]
    pipe = make()
    plain = run(pipe)
    assert skipcache.accelerate(pipe, interval=1) is pipe
    assert torch.equal(run(pipe), plain)
    skipcache.restore(pipe)
    skipcache.accelerate(pipe, interval=3)
    assert not torch.equal(run(pipe), plain)
    skipcache.restore(pipe)
    assert torch.equal(run(pipe), plain)
    assert not any("forward" in m.__dict__ or "cache_context" in m.__dict__ for m in pipe.transformer.modules())


@each
def test_runs_in_a_row_are_as_if_each_were_the_first(name):
    """Other step counts, other seeds: no count up front, no reset in between."""
    pipe, run = fresh(name)
    for steps, seed in ((7, 0), (10, 0), (4, 1), (7, 0)):
        alone, _ = fresh(name)
        assert torch.equal(run(pipe, steps=steps, seed=seed), run(alone, steps=steps, seed=seed))
        assert skipcache.report(pipe).full_at == tuple(range(0, steps, 3))
    skipcache.reset(pipe)
    run(pipe, steps=7)
    report = skipcache.report(pipe)
    assert (report.full_steps, report.cached_steps, report.reasons) == (3, 4, ())


@each
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_that_was_aborted_leaves_nothing(name, at):
    pipe, run = fresh(name)
    expected = run(pipe, seed=1)
    steps = iter(range(100))

    class Abort(Exception):
        pass

    def boom(*args):
        if next(steps) == at:
            raise Abort

    handle = pipe.transformer.register_forward_hook(boom)
    with pytest.raises(Abort):
        run(pipe, seed=0)
    handle.remove()
    assert torch.equal(run(pipe, seed=1), expected)


@pytest.mark.parametrize("name", ["pixart_sigma", "wan"])
def test_a_block_that_raised_in_mid_step_leaves_nothing(name):
    pipe, run = fresh(name)
    expected = run(pipe, seed=1)
    blocks = next(m for m in pipe.transformer.children() if isinstance(m, torch.nn.ModuleList))
    calls = iter(range(100))

    def boom(*args):
        if next(calls) == 4:
            raise MemoryError

    handle = blocks[0].register_forward_pre_hook(boom)
    with pytest.raises(MemoryError):
        run(pipe, seed=0)
    handle.remove()
    assert torch.equal(run(pipe, seed=1), expected)


@pytest.mark.parametrize("name", ["sd3", "wan"])
@pytest.mark.parametrize("at", [0, 3])
def test_a_run_that_its_callback_left_leaves_nothing(name, at):
    pipe, run = fresh(name)
    expected = run(pipe, seed=1)

    def leave(pipe, step, timestep, kwargs):
        if step == at:
            raise KeyboardInterrupt
        return kwargs

    with pytest.raises(KeyboardInterrupt):
        run(pipe, seed=0, callback_on_step_end=leave)
    assert torch.equal(run(pipe, seed=1), expected)


@each
def test_a_cached_run_equals_one_whose_deep_feature_is_replaced_by_hand(name):
    """The reference runs all blocks and counts calls: what the last deep block gave at a full step is given again."""
    make, run = PIPELINES[name]
    pipe = skipcache.accelerate(make(), interval=3, predictor=Hold())
    plain = make()
    lanes = 2 if name in ("flux", "wan") else 1
    model, calls, kept = plain.transformer, iter(range(1000)), {}
    lists = [m for m in model.children() if isinstance(m, torch.nn.ModuleList) and len(m) > 1]

    def hold(module, args, output):
        step, lane = divmod(next(calls), lanes)
        if step % 3:
            return kept[lane]
        kept[lane] = output
        return None

    lists[-1][-2].register_forward_hook(hold)
    assert torch.equal(run(pipe), run(plain))


@pytest.mark.parametrize("name", ["dit", "pixart_sigma", "sd3"])
def test_another_batch_between_runs(name):
    pipe, run = fresh(name)
    expected = {batch: run(fresh(name)[0], batch=batch) for batch in (1, 2, 3)}
    for batch in (2, 1, 3, 2):
        assert torch.equal(run(pipe, batch=batch), expected[batch])


def test_another_resolution_between_runs():
    pipe, run = fresh("pixart_sigma")
    expected = {size: run(fresh("pixart_sigma")[0], size=size) for size in (8, 16)}
    for size in (8, 16, 8):
        assert torch.equal(run(pipe, size=size), expected[size])


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
def test_latte_of_several_lengths(frames):
    pipe = skipcache.accelerate(pipelines.latte(frames), interval=3)
    pipelines.run_latte(pipe)
    assert skipcache.report(pipe).full_at == (0, 3, 6)
    assert skipcache.report(pipe).blocks_saved == 4 * 4


def test_latte_without_temporal_attention():
    """The temporal blocks do not run at all; the deep feature is then what the last spatial one hands out."""
    pipe = skipcache.accelerate(pipelines.latte(frames=1), interval=3)
    pipelines.run_latte(pipe, enable_temporal_attentions=False)
    report = skipcache.report(pipe)
    assert report.full_at == (0, 3, 6) and report.reasons == ()


def test_separate_guidance_is_two_lanes():
    """Wan calls the model twice per step, within `cache_context`: each lane reuses its own feature."""
    make, run = PIPELINES["wan"]
    pipe = make()
    expected = run(skipcache.accelerate(copy.deepcopy(pipe), interval=3, predictor=Hold()))
    skipcache.accelerate(pipe, interval=3, predictor=Hold())
    assert torch.equal(run(pipe), expected)
    report = skipcache.report(pipe)
    assert (report.full_steps, report.cached_steps) == (3, 4)
    assert report.blocks_run + report.blocks_saved == 2 * 7 * 4
    assert len(pipe.transformer.__dict__["forward"]._trajectory().lanes.all) == 2


def test_a_pipeline_of_two_denoisers_reports_by_component():
    pipe = skipcache.accelerate(pipelines.wan(two=True), interval=2)
    first = pipelines.run_wan(pipe)
    assert torch.equal(pipelines.run_wan(pipe), first)
    reports = skipcache.report(pipe)
    assert set(reports) == {"transformer", "transformer_2"}
    assert all(r.cached_steps and r.full_at[0] == 0 for r in reports.values())
    assert sum(r.full_steps + r.cached_steps for r in reports.values()) == 14
    skipcache.restore(pipe)


def test_img2img_enters_the_schedule_half_way():
    pipe = pipelines.sd3(StableDiffusion3Img2ImgPipeline)
    skipcache.accelerate(pipe, interval=3)
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
    expected = pipelines.run_sd3(skipcache.accelerate(other, interval=3), steps=10, strength=0.4, image=image)
    other = pipelines.sd3(StableDiffusion3Img2ImgPipeline)
    other.transformer = one.transformer
    skipcache.accelerate(one, interval=3)
    skipcache.accelerate(other, interval=3)

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
    skipcache.accelerate(pipe, interval=3, predictor=Hold())
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
def test_a_speedup_leans_to_the_end_where_the_scheduler_draws_noise(scheduler, noisy):
    make, run = PIPELINES["pixart_sigma"]
    pipe = make()
    pipe.scheduler = scheduler
    skipcache.accelerate(pipe, speedup=1.5)
    run(pipe, steps=20)
    report = skipcache.report(pipe)
    count = report.full_steps + report.cached_steps
    places = [Spread(2 / 3, power=2.0 if draws else 1.25).places(count) for draws in (False, True)]
    assert places[0] != places[1] and report.full_at == places[noisy]


@pytest.mark.parametrize("cls", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_flow_matching(cls):
    pipe = pipelines.sd3()
    pipe.scheduler = cls()
    skipcache.accelerate(pipe, interval=3)
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


def test_two_pipelines_share_one_model():
    one, run = fresh("pixart_sigma")
    other = pipelines.sigma()
    other.transformer = one.transformer
    other.scheduler = DDIMScheduler()
    assert skipcache.accelerate(other, interval=3) is other
    alone, _ = fresh("pixart_sigma")
    expected_one = run(alone)
    alone.scheduler = DDIMScheduler()
    expected_other = run(alone, steps=5)
    for _ in range(2):
        assert torch.equal(run(one), expected_one)
        assert torch.equal(run(other, steps=5), expected_other)
        assert skipcache.report(other).full_at == (0, 3)
    with pytest.raises(ValueError, match="other settings"):
        skipcache.accelerate(other, interval=2)


def test_two_threads_with_a_pipeline_each():
    one, run = fresh("sd3")
    other = pipelines.sd3()
    other.transformer = one.transformer
    skipcache.accelerate(other, interval=3)
    alone, _ = fresh("sd3")
    expected = [run(alone, steps=8, seed=0), run(alone, steps=11, seed=1)]
    results = {}

    def work(pipe, steps, seed):
        results[seed] = [run(pipe, steps=steps, seed=seed) for _ in range(4)]

    threads = [threading.Thread(target=work, args=a) for a in ((one, 8, 0), (other, 11, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        assert all(torch.equal(r, expected[seed]) for r in results[seed])


def test_a_deep_copy_of_a_pipeline_knows_its_own_scheduler():
    pipe, run = fresh("dit")
    expected = run(pipe)
    twin = copy.deepcopy(pipe)
    (served,) = twin.transformer.__dict__["forward"]._alive()
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
    expected = loop(skipcache.accelerate(pipelines.flux(), interval=3).transformer)
    assert all(map(torch.equal, found, expected))


def test_the_window_is_in_the_model_s_timesteps():
    pipe, run = fresh("pixart_sigma", interval=None, policy=Interval(2, start=800, stop=300), predictor=Forecast(1))
    run(pipe, steps=10)
    timesteps = pipe.scheduler.timesteps.tolist()
    expected, closed = [], False
    for i, t in enumerate(timesteps):
        if i % 2 == 0 or t >= 800 or closed:
            expected.append(i)
        closed = closed or t <= 300
    assert skipcache.report(pipe).full_at == tuple(expected)


def test_what_is_no_denoiser_is_left_alone():
    pipe, _ = fresh("dit")
    assert "forward" not in pipe.vae.__dict__
    with pytest.raises(ValueError, match="holds no denoiser"):
        skipcache.accelerate(_without_denoiser(pipe))


def _without_denoiser(pipe):
    other = copy.copy(pipe)
    other.__dict__ = {k: v for k, v in pipe.__dict__.items() if k != "transformer"}
    return other
