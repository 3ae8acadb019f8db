"""The accelerated forward: which calls run plain, and why nothing is cached."""

import contextlib
import copy
import gc

import pytest
import torch

import skipcache
from skipcache.blocks import override_of
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.settings import Request
from tests.models.odd import noise, run, tiny
from tests.models.sampling import equal, state


def accelerated(**asked):
    model = tiny()
    forward = CachedForward(model, Request(**{"interval": 3, **asked}).settings(model))
    forward.put_on()
    return model, forward


def test_it_is_put_on_and_taken_off_to_the_last_attribute():
    model = tiny()
    before = state(model)
    forward = CachedForward(model, Request(interval=3).settings(model))
    assert state(model) == before, "to make one touches nothing"
    forward.put_on()
    run(model)
    assert override_of(model, CachedForward) is forward
    forward.take_off()
    assert state(model) == before


PLAIN = {
    "training": (lambda m: m.train(), {}, "training mode"),
    "autograd": (lambda m: m.requires_grad_(True), {}, "autograd is recording"),
    "no timestep": (lambda m: m, {"t": None}, "no 't'"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_some_calls_run_as_if_nothing_were_there_and_one_warning_says_why(kind):
    change, given, reason = PLAIN[kind]
    model, forward = accelerated()
    change(model)
    calls = {"x": noise(), "t": torch.full((2,), 500), **given}
    with pytest.warns(UserWarning, match=f"caches nothing: .*{reason}") as warned:
        for _ in range(3):
            with pytest.raises(TypeError) if kind == "no timestep" else contextlib.nullcontext():
                model(**calls)
    assert len(warned) == 1 and forward.ledger.all.full_steps == forward.ledger.all.cached_steps == 0
    assert any(reason in because for because in forward.report().reasons)


def test_a_call_that_raises_leaves_no_half_step():
    model, forward = accelerated()
    expected = run(model)
    handle = model.blocks[3].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"):
        run(model, seed=1)
    handle.remove()
    assert forward.runs.tensors == []
    assert equal(run(model), expected)


def test_a_copy_and_a_reset_one_begin_with_nothing():
    model, forward = accelerated()
    expected = run(model)
    twin = copy.deepcopy(model)
    assert override_of(twin, CachedForward).report().full_steps == 0
    assert equal(run(twin), expected) and forward.report().full_steps == 3
    forward.reset()
    assert forward.report().full_steps == 0 and forward.report().cache_bytes == 0


def test_a_pipeline_that_is_gone_is_read_no_more():
    class Pipeline:
        scheduler = object()

    model, forward = accelerated()
    pipe = Pipeline()
    forward.serve(pipe)
    forward.serve(pipe)
    assert forward.pipelines.schedulers() == ([Pipeline.scheduler], False)
    del pipe
    gc.collect()
    assert forward.pipelines.schedulers() == ([], False) and model is forward.module


def test_flops_are_counted_without_counting_as_calls():
    model, forward = accelerated()
    run(model)
    first = forward.report()
    assert first.ideal_speedup > 1 and forward.report() == first
    assert skipcache.report(model) == first


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_runs_that_end_after_one_step_are_told_with_what_helps(engine):
    """Another noise at each of falling times: nothing is cached, and the report says why."""
    model, plain = tiny(), tiny()
    skipcache.accelerate(model, interval=3, engine=engine)
    with pytest.warns(UserWarning, match=r"each of many runs had one step.*name the runs with skipcache\.run"):
        for i, t in enumerate(torch.linspace(950, 50, 10)):
            with torch.no_grad():
                x, times = noise(seed=i), t.expand(2)
                assert torch.equal(model(x, times), plain(x, times))
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, len(report.reasons)) == (10, 0, 1)
    run(model)
    assert skipcache.report(model).cached_steps == 4


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_a_call_that_joins_between_full_steps_is_told(engine):
    model = skipcache.accelerate(tiny(), interval=3, engine=engine)
    x, texts = noise(), [torch.zeros(2), torch.ones(2)]
    with torch.no_grad():
        for i, t in enumerate(torch.linspace(950, 50, 5)):
            outputs = [model(x, t.expand(2), text=text) for text in texts[: 1 + (i > 0)]]
            x = x - outputs[0] / 5
            reasons = skipcache.report(model).reasons
            assert any("no features of its own on a cached step" in reason for reason in reasons) == (i > 0)
    assert skipcache.report(model).blocks_saved == (3 + 2) * 3, "steps 1, 2 and 4, and 2 and 4 of the one that joined"
