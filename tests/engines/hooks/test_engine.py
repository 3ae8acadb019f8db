"""The hook engine: it proves a signature once, follows replaced blocks, and leaves nothing on the model."""

import copy
import threading

import pytest
import torch
from torch import nn

from skipcache.blocks.attributes import CALL
from skipcache.engines.hooks.engine import LOST, READ
from skipcache.engines.hooks.proved import MAX_SIGNATURES
from skipcache.predictors import Hold, Prediction
from skipcache.trajectory import WRITES
from tests.models.hooked import call_of, made
from tests.models.odd import Tiny
from tests.models.originals import Block
from tests.models.sampling import state


def full(engine, call):
    with torch.no_grad():
        return engine.full(type(engine.model).forward.__get__(engine.model), call)


def cached(engine, call, D):
    prediction = Prediction(Hold(), [D], (), residual=False)
    with torch.no_grad():
        return engine.cached(type(engine.model).forward.__get__(engine.model), call, prediction)


def test_it_is_put_on_once_and_taken_off_to_the_last_attribute():
    model, engine = made()
    before = state(model)
    engine.attach()
    engine.attach()
    full(engine, call_of(model))
    assert all(CALL in block.__dict__ for block in model.blocks)
    engine.detach()
    assert state(model) == before
    engine.detach()
    assert state(model) == before


class HandsOutItsFeatures(Tiny):
    """A deep feature leaves by a second output, which no cached step could give."""

    def forward(self, x, t):
        h = self.inlet(x.flatten(2).transpose(1, 2))
        deep = []
        for block in self.blocks:
            h = block(h, self.time(t))
            deep.append(h)
        return self.outlet(h), deep[2]


class WritesToItsSample(Tiny):
    def before(self, h, x, t):
        x.mul_(0.5)
        return h


@pytest.mark.parametrize(
    ("kind", "reason"), [(HandsOutItsFeatures, READ.format("the caller")), (WritesToItsSample, WRITES)]
)
def test_what_a_cached_step_could_not_give_is_refused_for_good(kind, reason):
    model, engine = made(kind, depth=6)
    engine.attach()
    call = call_of(model)
    result = full(engine, call)
    assert result.features is None and engine.refusal(call) == reason and not engine.serves(call)
    again = full(engine, call)
    assert again.features is None and again.blocks_run == 6


class WritesToItsFeatures(Tiny):
    def after(self, h, x, t):
        return h.mul_(2)


@pytest.mark.parametrize("kind", [Tiny, WritesToItsFeatures])
def test_features_are_kept_by_reference_unless_the_model_writes_to_them(kind):
    model, engine = made(kind, keep=(1, 0))
    engine.attach()
    handed_out, call = [], call_of(model)
    model.blocks[4].register_forward_hook(lambda module, args, output: handed_out.append(output))
    full(engine, call)
    handed_out.clear()
    result = full(engine, call)
    (D,) = result.features.D
    assert (D.data_ptr() == handed_out[0].data_ptr()) is (kind is Tiny)
    assert torch.equal(cached(engine, call, result.features.D).output, result.output)


def test_signatures_are_learned_one_by_one_and_the_oldest_is_forgotten():
    model, engine = made()
    engine.attach()
    calls = [call_of(model, side) for side in range(2, MAX_SIGNATURES + 3)]
    for call in calls:
        assert not engine.serves(call)
        features = full(engine, call).features
        assert engine.serves(call) and not cached(engine, call, features.D).full
    assert not engine.serves(calls[0]) and engine.serves(calls[-1])


def test_a_replaced_block_is_followed_and_what_the_old_one_showed_is_forgotten():
    model, engine = made()
    engine.attach()
    call = call_of(model)
    full(engine, call)
    old, new = model.blocks[2], Block(16)
    model.blocks[2] = new.eval().requires_grad_(False)
    assert not engine.serves(call)
    result = full(engine, call)
    assert engine.serves(call) and CALL in new.__dict__ and CALL not in old.__dict__
    assert torch.equal(cached(engine, call, result.features.D).output, result.output)
    engine.detach()
    assert not any(CALL in block.__dict__ for block in model.blocks)


def test_a_model_that_has_lost_blocks_runs_in_full_and_says_why():
    model, engine = made()
    engine.attach()
    call = call_of(model)
    full(engine, call)
    model.blocks = nn.ModuleList(list(model.blocks)[:3])
    result = full(engine, call)
    assert result.features is None and engine.refusal(call) == LOST
    assert torch.equal(result.output, type(model).forward(model, call.sample, call.timestep))


def test_an_idle_head_is_left_out_where_nothing_reads_it():
    for idle, runs in ((True, 1), (False, 2)):
        model, engine = made(idle_head=idle)
        engine.attach()
        call = call_of(model)
        result = full(engine, call)
        found = cached(engine, call, result.features.D)
        assert found.blocks_run == runs and torch.equal(found.output, result.output)


def test_each_thread_does_what_it_was_told():
    """While one thread is within a cached step, another one's call of the model computes all blocks."""
    model, engine = made()
    engine.attach()
    call = call_of(model)
    result = full(engine, call)
    inside, go_on, seen = threading.Event(), threading.Event(), {}

    def wait(*_):
        if threading.current_thread() is other:
            inside.set()
            assert go_on.wait(30)

    model.blocks[0].adaLN.register_forward_hook(wait)
    other = threading.Thread(target=lambda: seen.update(cached=cached(engine, call, result.features.D)))
    other.start()
    assert inside.wait(30)
    with torch.no_grad():
        assert torch.equal(model(call.sample, call.timestep), result.output)
    go_on.set()
    other.join()
    assert seen["cached"].blocks_run == 2 and torch.equal(seen["cached"].output, result.output)


def test_a_copy_has_overrides_of_its_own_and_has_learned_nothing():
    model, engine = made()
    engine.attach()
    full(engine, call_of(model))
    twin = copy.deepcopy(engine)
    assert twin.model is not model and not twin.serves(call_of(twin.model))
    assert twin.model.blocks[0].__dict__[CALL].engine is twin
    twin.detach()
    assert CALL in model.blocks[0].__dict__ and CALL not in twin.model.blocks[0].__dict__
