"""`accelerate` and its companions as a user meets them: what is asked for, refused, shared and restored."""

import copy
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import skipcache
from skipcache import Damped, Hold, Interval, Schedule, Spread, Stack
from skipcache.trajectory.time import current_runs
from tests.models.originals import OriginalDiT
from tests.models.pipelines import dit, run_dit, run_wan, wan
from tests.models.sampling import build, equal, inputs, sample, state


class NoBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x, t):
        return self.net(x)


class NoTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))

    def forward(self, x, when):
        return x


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"interval": 0}, ValueError, "at least 1"),
        ({"interval": 2.5}, TypeError, "expected an int"),
        ({"interval": "3"}, TypeError, "expected an int"),
        ({"keep": -1}, ValueError, "head >= 0"),
        ({"keep": (1, -1)}, ValueError, "tail >= 0"),
        ({"keep": 2}, ValueError, "head \\+ tail < 4"),
        ({"keep": (3, 1)}, ValueError, "head \\+ tail < 4"),
        ({"keep": 1.0}, TypeError, "an int or \\(head, tail\\)"),
        ({"keep": (1, 2, 3)}, TypeError, "an int or \\(head, tail\\)"),
        ({"keep": True}, TypeError, "an int or \\(head, tail\\)"),
        ({"interval": 3, "policy": Interval(3)}, ValueError, "exclude each other"),
        ({"interval": 3, "speedup": 2.0}, ValueError, "interval=3 and speedup=2.0 exclude each other"),
        ({"policy": Interval(3), "speedup": 2.0}, ValueError, "exclude each other"),
        ({"speedup": "2"}, TypeError, "speedup: expected a number"),
        ({"speedup": 0.5}, ValueError, "speedup: expected at least 1"),
        ({"speedup": 2.0, "keep": 1}, ValueError, "less than 2, got 2.0: a cached step runs 2 of 4 units"),
        ({"policy": Interval}, TypeError, "policy: expected"),
        ({"policy": "uniform"}, TypeError, "policy: expected"),
        ({"policy": Hold()}, TypeError, "policy: expected"),
        ({"predictor": "hold"}, TypeError, "predictor: expected"),
        ({"predictor": Hold}, TypeError, "predictor: expected"),
        ({"predictor": Interval(2)}, TypeError, "predictor: expected"),
        ({"engine": "magic"}, ValueError, "engine: expected"),
        ({"compile": "max"}, TypeError, "compile: expected"),
        ({"compile": True, "engine": "hooks"}, ValueError, "no graphs to compile"),
        ({"speed": 3}, TypeError, "unexpected keyword"),
        ({"stack": "blocks"}, TypeError, "expected a skipcache.Stack"),
        ({"stack": Stack((("blocks.9",),), "x", "t")}, ValueError, "no block at 'blocks.9'"),
        (
            {"stack": Stack((("blocks.0",), ("blocks.1",)), "x", "when")},
            ValueError,
            "no argument 'when' for the timestep",
        ),
        ({"stack": Stack((("blocks.0",), ("blocks.1",)), "z", "t")}, ValueError, "no argument 'z' for the sample"),
    ],
)
def test_bad_input_raises_before_the_model_is_touched(kwargs, error, message):
    model = build("original_dit")
    before = state(model)
    with pytest.raises(error, match=message):
        skipcache.accelerate(model, **kwargs)
    assert state(model) == before


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (NoBlocks(), ValueError, "has no stack: looked for a ModuleList.*Stack\\("),
        (NoTime(), ValueError, "no timestep argument: looked for timestep,.*'when'"),
        (nn.ModuleList(), ValueError, "no timestep argument"),
        (3, TypeError, "an nn.Module or a pipeline"),
        (OriginalDiT, TypeError, "an nn.Module or a pipeline"),
        (None, TypeError, "an nn.Module or a pipeline"),
        (OriginalDiT(depth=1), ValueError, "no stack|head \\+ tail"),
    ],
)
def test_what_cannot_be_accelerated_is_told_why(target, error, message):
    with pytest.raises(error, match=message):
        skipcache.accelerate(target)


def test_a_compiled_or_sharded_module_is_refused_by_name():
    with pytest.raises(ValueError, match=r"OptimizedModule.*compiled"):
        skipcache.accelerate(torch.compile(build("original_dit"), backend="eager"))
    model = build("original_dit")
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="compiled"):
        skipcache.accelerate(model)


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_all_components_are_checked_before_the_first_is_touched(engine):
    """The second one fails, each time for another reason."""
    one, other = build("original_dit"), build("original_dit", seed=1)
    pipe, unreferable = Pipe(), SimpleNamespace(transformer=one, transformer_2=other, scheduler=None)
    pipe.transformer, pipe.transformer_2 = one, other
    before = state(one), state(other)
    with pytest.raises(TypeError, match="a class that allows weak references, got SimpleNamespace; pass the denoiser"):
        skipcache.accelerate(unreferable, engine=engine)
    assert (state(one), state(other)) == before
    skipcache.accelerate(other, interval=5, engine=engine)
    with pytest.raises(ValueError, match=r"OriginalDiT \(transformer_2\) is accelerated with other settings"):
        skipcache.accelerate(pipe, interval=3, engine=engine)
    assert state(one) == before[0]
    skipcache.restore(other)
    pipe.transformer_2 = build("hunyuan_dit")
    with pytest.raises(ValueError, match="speedup: HunyuanDiT2DModel has skip branches"):
        skipcache.accelerate(pipe, speedup=1.4, engine=engine)
    assert (state(one), state(other)) == before


class Pipe:
    """An object that holds denoisers by attribute."""


def test_settings_must_be_equal_the_second_time():
    model = skipcache.accelerate(build("original_dit"), interval=3)
    assert skipcache.accelerate(model, policy=Interval(3)) is model
    before = state(model)
    for other in (
        {"interval": 2},
        {"keep": 0},
        {"predictor": Hold()},
        {"policy": Schedule([0, 3])},
        {"training": "ignore"},
    ):
        with pytest.raises(ValueError, match="accelerated with other settings"):
            skipcache.accelerate(model, **other)
    assert state(model) == before


@pytest.mark.parametrize("keep", [1, (1, 0), 0])
def test_a_speedup_is_reached_by_a_pipeline(keep):
    pipe = dit()
    plain = run_dit(pipe, steps=20)
    short = pytest.warns(UserWarning, match="7 of 20 steps are full, not 6, .* fall by 1.48x: ")
    with skipcache.accelerated(pipe, speedup=1.5, keep=keep), short if keep == 1 else nullcontext():
        cached = run_dit(pipe, steps=20)
        report = skipcache.report(pipe)
        evaluated = report.blocks_run, report.blocks_run + report.blocks_saved
        share = {1: 1 / 3, (1, 0): 5 / 9, 0: 2 / 3}[keep]  # of the steps, on a stack of four units
        assert report.full_at == Spread(share, least=7).places(20, times_of(pipe))
    if keep == 1:
        assert evaluated == (7 * 4 + 13 * 2, 80) and len(report.reasons) == 1
    else:
        assert 1.5 <= evaluated[1] / evaluated[0] < 1.6 and not report.reasons
    assert not torch.equal(plain, cached)
    with skipcache.accelerated(pipe, speedup=1):
        assert torch.equal(run_dit(pipe, steps=20), plain)


def test_a_speedup_keeps_no_unit_and_is_not_offered_with_skip_branches():
    pipe = skipcache.accelerate(dit(), speedup=2)
    run_dit(pipe, steps=20)
    report = skipcache.report(pipe)
    assert (report.full_steps, report.blocks_run) == (10, 40)
    assert skipcache.accelerate(pipe, speedup=2, predictor=Damped()) is pipe, "the default"
    for model in (build("hunyuan_dit"), skipcache.graft(build("original_dit"))):
        before = state(model)
        with pytest.raises(ValueError, match=r"speedup: .* has skip branches.*insist with keep=1"):
            skipcache.accelerate(model, speedup=1.5)
        assert state(model) == before
        skipcache.restore(skipcache.accelerate(model, speedup=1.1, keep=1))


@pytest.mark.filterwarnings("ignore:skipcache:UserWarning")  # the second denoiser's part is short
def test_two_denoisers_of_one_run_share_one_schedule():
    pipe = skipcache.accelerate(wan(two=True), speedup=1.5, keep=0)
    run_wan(pipe, steps=12)
    first, second = skipcache.report(pipe).values()
    count = first.full_steps + first.cached_steps
    assert count + second.full_steps + second.cached_steps == 12
    times = times_of(pipe)
    assert first.full_at == tuple(p for p in Spread(2 / 3).places(12, times) if p < count)
    assert second.full_at == Spread(2 / 3, least=7, shortest=9).places(12 - count, times[count:]), "a run of its own"
    assert 1 < count < 11


def times_of(pipe):
    return current_runs([pipe.scheduler])[0].times


def test_in_a_loop_of_one_s_own_a_speedup_is_reached_too():
    model = skipcache.accelerate(build("original_dit"), speedup=1.5, keep=1)
    sample("original_dit", model, steps=30)
    report = skipcache.report(model)
    assert report.full_at == tuple(range(0, 30, 3))
    skipcache.restore(model)
    skipcache.accelerate(model, policy=Spread(1 / 3, steps=30))
    sample("original_dit", model, steps=30)
    assert skipcache.report(model).full_at == Spread(1 / 3).places(30)


@pytest.mark.parametrize("undo", [skipcache.restore, skipcache.reset, skipcache.report])
def test_what_was_not_accelerated_is_refused(undo):
    model = build("original_dit")
    with pytest.raises(ValueError, match="is not accelerated"):
        undo(model)
    skipcache.restore(skipcache.accelerate(model))
    with pytest.raises(ValueError, match="is not accelerated"):
        undo(model)


def test_the_with_block_restores_whatever_happens():
    model = build("original_dit")
    before = state(model)
    with pytest.raises(RuntimeError, match="midway"), skipcache.accelerated(model, interval=2) as inside:
        assert inside is model and skipcache.report(model).engine == "hooks"
        raise RuntimeError("midway")
    assert state(model) == before


def test_a_hand_written_stack_serves_what_discovery_cannot_see():
    model = build("yesterday")
    plain = sample("yesterday", model)
    by_hand = Stack(tuple((f"core.layers.{i}",) for i in range(5)), sample="z", timestep="sigma")
    skipcache.accelerate(model, interval=3, stack=by_hand)
    cached = sample("yesterday", model)
    skipcache.restore(model)
    skipcache.accelerate(model, interval=3)
    assert equal(sample("yesterday", model), cached) and not equal(cached, plain)


def test_a_caller_of_forward_is_served():
    """The original DiT's `forward_with_cfg` calls `self.forward`, not the module."""
    model = build("original_dit")
    kwargs, _, _ = inputs("original_dit", model)
    skipcache.accelerate(model, interval=2)
    with torch.no_grad():
        for t in (900, 800, 700):
            model.forward_with_cfg(**kwargs, t=torch.full((2,), t), cfg_scale=3.0)
    assert skipcache.report(model).full_at == (0, 2)


@pytest.mark.parametrize("name", ["dit", "latte", "original_dit"])
def test_copies_and_pickles_stay_accelerated_with_caches_of_their_own(name):
    model = skipcache.accelerate(build(name), interval=3)
    expected = sample(name, model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    other = sample(name, model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert skipcache.report(twin).full_steps == 0 and skipcache.report(twin).cache_bytes == 0
        assert equal(sample(name, twin), other)
        assert skipcache.report(twin).full_at == (0, 3, 6)
        with torch.no_grad():
            for p in twin.parameters():
                p.sub_(0.01)
        assert not equal(sample(name, twin), other), "the copy runs its own weights"
        before = {path: set(m.__dict__) for path, m in build(name).named_modules()}
        skipcache.restore(twin)
        assert {path: set(m.__dict__) for path, m in twin.named_modules()} == before
    assert equal(sample(name, model), other) and not equal(other, expected)
