"""The state of a model as one value: what changes it, and what does not."""

import copy
import pickle

import pytest
import torch
from diffusers.hooks import HookRegistry, LayerSkipConfig
from diffusers.hooks.layer_skip import _apply_layer_skip_hook
from torch import nn
from torch.func import functional_call

import skipcache
from skipcache.blocks.state import ModelState
from tests.models.pipelines import denoiser


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))


def write(model):
    with torch.no_grad():
        model[0].weight.mul_(2)


def replace(model):
    model[1][0] = nn.Linear(4, 4)


CHANGES = {
    "a write in place": write,
    "another parameter": lambda m: setattr(m[0], "bias", nn.Parameter(torch.ones(4))),
    "no parameter": lambda m: setattr(m[0], "bias", None),
    "a module replaced": replace,
    "a module more": lambda m: m[1].append(nn.Identity()),
    "a forward hook": lambda m: m[1][1].register_forward_hook(lambda *a: None),
    "a pre-hook": lambda m: m[1][1].register_forward_pre_hook(lambda *a: None),
    "a forward on an instance": lambda m: setattr(m[1][0], "forward", lambda x: x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_it(change):
    model = net()
    state = ModelState(model)
    before = state.read()
    assert state.read() == before
    CHANGES[change](model)
    assert state.read() != before
    assert state.read() == state.read()


def test_what_is_undone_gives_the_value_that_it_was():
    model = net()
    state = ModelState(model)
    before = state.read()
    handle = model[0].register_forward_hook(lambda *a: None)
    model[1][0].forward = lambda x: x
    assert state.read() != before
    handle.remove()
    del model[1][0].forward
    assert state.read() == before


def test_one_hook_in_the_place_of_another_is_seen():
    model = net()
    handle = model[0].register_forward_hook(lambda *a: None)
    state = ModelState(model)
    before = state.read()
    handle.remove()
    model[1][1].register_forward_hook(lambda *a: None)
    assert state.read() != before


class Away:
    """A forward that is gone after its call, so that the next one may get its memory."""

    def __call__(self, x):
        return x


class Unreferenced:
    """It has no weak references."""

    __slots__ = ()

    def __call__(self, x):
        return x


def test_a_forward_in_the_memory_of_one_that_is_gone_is_another_state():
    model = net()
    state, memory, values = ModelState(model), set(), set()
    for _ in range(50):
        model[0].forward = Away()
        memory.add(id(model[0].forward))
        values.add(state.read())
        del model[0].forward
        state.read()
    assert len(memory) < 50, "memory was given again"
    assert len(values) == 50


def test_a_forward_without_weak_references_is_told_while_it_is_there():
    model = net()
    state = ModelState(model)
    before = state.read()
    model[0].forward = Unreferenced()
    assert before != state.read() == state.read()


def test_other_weights_for_one_call_are_seen_in_it():
    model, seen = net(), []
    state = ModelState(model)
    before = state.read()
    model[0].forward = lambda x: (seen.append(state.read()), x)[1]
    state.read()
    functional_call(model, {n: p * 2 for n, p in model.named_parameters()}, torch.ones(1, 4))
    del model[0].forward
    assert seen[0] != before and state.read() == before


def test_skipped_layers_are_seen_and_their_removal_too():
    model = denoiser("wan", num_layers=4)
    state = ModelState(model)
    before = state.read()
    _apply_layer_skip_hook(model, LayerSkipConfig(indices=[2], fqn="blocks"), name="slg")
    assert state.read() != before
    HookRegistry.check_if_exists_or_initialize(model).remove_hook("slg", recurse=True)
    assert state.read() == before


def test_what_skipcache_puts_on_is_not_the_model_s_state():
    model = denoiser("dit", num_layers=4)
    state = ModelState(model)
    before = state.read()
    skipcache.accelerate(model, interval=3)
    assert state.read() == before


def test_inference_tensors_and_buffers_count_no_writes():
    with torch.inference_mode():
        model = net()
        model.register_buffer("seen", torch.zeros(1))
        state = ModelState(model)
        before = state.read()
        model.seen.add_(1)
        assert state.read() == before


def test_parameters_that_are_away_between_calls_are_not_looked_at():
    model = net()
    state = ModelState(model)

    def away():
        model[0].weight = nn.Parameter(torch.empty(4, 4, device="meta"))

    away()
    before = state.read()
    away()
    assert state.read() == before
    model[0].weight = nn.Parameter(torch.ones(4, 4))
    assert state.read() != before


def test_copies_read_their_own_model():
    holder = nn.Module()
    holder.model = net()
    holder.state = ModelState(holder.model)
    for twin in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert twin.state._model is twin.model


def test_another_thread_finds_no_half_of_a_value():
    """Nothing is said to be known before its value is there."""
    state, known = ModelState(net()), []
    number = state._numbers.of
    state._numbers.of = lambda x: (known.append(state._seen), number(x))[1]
    assert state.read() is not None
    assert known and set(known) == {None}
