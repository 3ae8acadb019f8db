"""What a trial run leaves behind is put back: random numbers, attributes, buffers. What wraps a module stays."""

import random

import numpy
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

from skipcache.blocks.snapshot import Snapshot, quietly

CPU = torch.device("cpu")


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(3))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.weight = nn.Parameter(torch.ones(2))
        self.count, self.listed, self.by_name, self.names = 0, [1], {"a": 1}, {"x"}


def test_generators_go_on_as_if_nothing_had_drawn():
    model = Model()
    snapshot = Snapshot(CPU, model)
    expected = torch.rand(2), random.random(), numpy.random.rand()
    snapshot.put_back()
    again = torch.rand(2), random.random(), numpy.random.rand()
    assert torch.equal(again[0], expected[0]) and again[1:] == expected[1:]


def test_attributes_come_back_and_new_ones_go():
    model = Model()
    listed, by_name, names = model.listed, model.by_name, model.names
    snapshot = Snapshot(CPU, model)
    model.count += 1
    model.inner.seen = True
    model.listed.append(2)
    model.by_name = {"b": 2}
    by_name["a"] = 7
    model.names.clear()
    snapshot.put_back()
    assert model.count == 0 and not hasattr(model.inner, "seen")
    assert model.listed is listed and listed == [1]
    assert model.by_name is by_name and by_name == {"a": 1}
    assert model.names is names and names == {"x"}


def test_values_of_buffers_come_back_into_the_same_memory():
    model = Model()
    buffer = model.inner.calls
    snapshot = Snapshot(CPU, model)
    buffer.add_(1)
    snapshot.put_back()
    assert model.inner.calls is buffer and torch.equal(buffer, torch.zeros(3))
    version = buffer._version
    Snapshot(CPU, model).put_back()
    assert buffer._version == version, "what was not written to is left alone"


def test_what_hangs_around_a_module_stays():
    """An offload hook that moves weights during the trial has moved them."""
    model = Model()
    snapshot = Snapshot(CPU, model)
    add_hook_to_module(model.inner, ModelHook())
    model.register_forward_hook(lambda *_: None)
    model.weight = nn.Parameter(torch.zeros(2))
    snapshot.put_back()
    assert "_hf_hook" in model.inner.__dict__ and len(model._forward_hooks) == 1
    assert torch.equal(model.weight, torch.zeros(2))


def test_a_trial_that_raises_is_put_back_too():
    model = Model()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stopped"), quietly(CPU, model):
        model.count = 9
        torch.rand(1)
        raise RuntimeError("stopped")
    assert model.count == 0 and torch.equal(torch.get_rng_state(), state)
