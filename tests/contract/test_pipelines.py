"""Real pipelines, from `accelerate(pipe)` to `restore`: exact where it must be, and never a stale feature."""

import copy
import threading

import pytest
import torch
from diffusers import DDIMScheduler

import skipcache
from skipcache import Hold
from tests.models import pipelines
from tests.models.pipelines import PIPELINES, fresh
from tests.models.thorough import families

each = pytest.mark.parametrize("name", families(PIPELINES))


@each
def test_interval_one_and_restore_are_exact(name):
    make, run = PIPELINES[name]
    pipe = make()
    plain = run(pipe)
    assert skipcache.accelerate(pipe, interval=1) is pipe
    assert torch.equal(run(pipe), plain)
    skipcache.restore(pipe)
    skipcache.accelerate(pipe, policy=skipcache.Interval(3))
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
    pipe = skipcache.accelerate(make(), policy=skipcache.Interval(3), predictor=Hold())
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
    pipe = skipcache.accelerate(pipelines.latte(frames), policy=skipcache.Interval(3))
    pipelines.run_latte(pipe)
    assert skipcache.report(pipe).full_at == (0, 3, 6)
    assert skipcache.report(pipe).blocks_saved == 4 * 4


def test_latte_without_temporal_attention():
    """The temporal blocks do not run at all; the deep feature is then what the last spatial one hands out."""
    pipe = skipcache.accelerate(pipelines.latte(frames=1), policy=skipcache.Interval(3))
    pipelines.run_latte(pipe, enable_temporal_attentions=False)
    report = skipcache.report(pipe)
    assert report.full_at == (0, 3, 6) and report.reasons == ()


def test_separate_guidance_is_two_lanes():
    """Wan calls the model twice per step, within `cache_context`: each lane reuses its own feature."""
    make, run = PIPELINES["wan"]
    pipe = make()
    expected = run(skipcache.accelerate(copy.deepcopy(pipe), policy=skipcache.Interval(3), predictor=Hold()))
    skipcache.accelerate(pipe, policy=skipcache.Interval(3), predictor=Hold())
    assert torch.equal(run(pipe), expected)
    report = skipcache.report(pipe)
    assert (report.full_steps, report.cached_steps) == (3, 4)
    assert report.blocks_run + report.blocks_saved == 2 * 7 * 4
    assert len(pipe.transformer.__dict__["forward"].runs.latest.lanes.all) == 2


def test_a_pipeline_of_two_denoisers_reports_by_component():
    pipe = skipcache.accelerate(pipelines.wan(two=True), policy=skipcache.Interval(2))
    first = pipelines.run_wan(pipe)
    assert torch.equal(pipelines.run_wan(pipe), first)
    reports = skipcache.report(pipe)
    assert set(reports) == {"transformer", "transformer_2"}
    assert all(r.cached_steps and r.full_at[0] == 0 for r in reports.values())
    assert sum(r.full_steps + r.cached_steps for r in reports.values()) == 14
    skipcache.restore(pipe)


def test_two_pipelines_share_one_model():
    one, run = fresh("pixart_sigma")
    other = pipelines.sigma()
    other.transformer = one.transformer
    other.scheduler = DDIMScheduler()
    assert skipcache.accelerate(other, policy=skipcache.Interval(3)) is other
    alone, _ = fresh("pixart_sigma")
    expected_one = run(alone)
    alone.scheduler = DDIMScheduler()
    expected_other = run(alone, steps=5)
    for _ in range(2):
        assert torch.equal(run(one), expected_one)
        assert torch.equal(run(other, steps=5), expected_other)
        assert skipcache.report(other).full_at == (0, 3)
    with pytest.raises(ValueError, match="other settings"):
        skipcache.accelerate(other, policy=skipcache.Interval(2))


def test_two_threads_with_a_pipeline_each():
    one, run = fresh("sd3")
    other = pipelines.sd3()
    other.transformer = one.transformer
    skipcache.accelerate(other, policy=skipcache.Interval(3))
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


def test_what_is_no_denoiser_is_left_alone():
    pipe, _ = fresh("dit")
    assert "forward" not in pipe.vae.__dict__
    with pytest.raises(ValueError, match="holds no denoiser"):
        skipcache.accelerate(_without_denoiser(pipe))


def _without_denoiser(pipe):
    other = copy.copy(pipe)
    other.__dict__ = {k: v for k, v in pipe.__dict__.items() if k != "transformer"}
    return other
