"""Both engines keep the protocol: the same members, and results that say what was done."""

import inspect

import pytest
import torch

from skipcache.engines.engine import Engine, Features, StepResult
from skipcache.engines.fx.engine import FxEngine
from skipcache.engines.hooks.engine import HookEngine
from skipcache.predictors import Hold, Prediction
from skipcache.stack import Stack, make_plan
from skipcache.trajectory import CallReader
from tests.models.odd import noise, tiny

both = pytest.mark.parametrize("kind", [HookEngine, FxEngine])


def made(kind, keep=1):
    model = tiny()
    stack = Stack(tuple((f"blocks.{i}",) for i in range(5)), "x", "t")
    engine = kind(model, stack, make_plan(5, keep))
    engine.attach()
    return model, engine, CallReader.of(model.forward, "x", "t")


def call_of(reader, t=500, seed=0):
    return reader.read((noise(seed=seed), torch.full((2,), t)), {})


@both
def test_members_are_those_of_the_protocol(kind):
    _, engine, _ = made(kind)
    for name, member in inspect.getmembers(Engine, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(type(engine), name))
            assert list(ours.parameters) == list(inspect.signature(member).parameters), name
    assert engine.name in ("hooks", "fx") and len(engine.stack.units) == 5


@both
@pytest.mark.parametrize("keep", [1, (1, 0), (0, 1), (2, 1)])
@torch.no_grad()
def test_a_full_step_says_that_all_blocks_ran_and_a_cached_one_that_the_ends_did(kind, keep):
    model, engine, reader = made(kind, keep)
    call = call_of(reader)
    assert engine.refusal(call) is None and not engine.serves(call)
    expected = tiny()(call.sample, call.timestep)
    for _ in range(2):
        full = engine.full(type(model).forward.__get__(model), call)
        assert isinstance(full, StepResult) and torch.equal(full.output, expected)
        assert full.full and full.blocks_run == 5 and isinstance(full.features, Features)
    ends = keep if isinstance(keep, tuple) else (keep, keep)
    held = Prediction(Hold(), [full.features.D], (), residual=False, observe=lambda H: None)
    assert engine.serves(call) and engine.can_cache(call, held)
    cached = engine.cached(type(model).forward.__get__(model), call, held)
    assert torch.equal(cached.output, expected), "a cached step that is given D gives the full step's output"
    assert not cached.full and cached.blocks_run == sum(ends) and cached.features is None


@torch.no_grad()
def test_both_engines_leave_the_same_features():
    left = []
    for kind in (HookEngine, FxEngine):
        model, engine, reader = made(kind, keep=(2, 1))
        left.append(engine.full(type(model).forward.__get__(model), call_of(reader)).features)
    assert all(torch.equal(a, b) for ours, theirs in zip(*left) for a, b in zip(ours, theirs))


@both
@torch.no_grad()
def test_what_was_learned_of_a_signature_can_be_forgotten(kind):
    model, engine, reader = made(kind)
    call = call_of(reader)
    engine.full(type(model).forward.__get__(model), call)
    assert engine.serves(call) and engine.serves(call_of(reader, t=900, seed=3)), "values are no part of a signature"
    assert not engine.serves(reader.read((noise(side=6), torch.full((2,), 500)), {}))
    engine.forget()
    assert not engine.serves(call)


@both
def test_calls_that_raise_are_no_trials(kind):
    model, engine, reader = made(kind)
    call = call_of(reader)

    def breaks(*_):
        raise RuntimeError("no memory")

    handle = model.blocks[4].register_forward_pre_hook(breaks)
    for _ in range(5):
        with torch.no_grad(), pytest.raises(RuntimeError, match="no memory"):
            engine.full(model.forward, call)
    handle.remove()
    with torch.no_grad():
        assert engine.full(model.forward, call).features is not None and engine.refusal(call) is None
