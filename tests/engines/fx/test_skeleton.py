"""A forward runs on stand-ins: leaves are answered by someone else, and nothing of the model is touched."""

import gc
import weakref

import pytest
import torch
from torch import nn

from skipcache.engines.fx.skeleton import Skeleton
from tests.models.sampling import state


class Part(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return x + self.number


class Core(nn.Module):
    """Glue: it contains blocks, so its own forward runs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Part(i) for i in range(3))
        self.gain = 2

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.gain


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inlet = Part(10)
        self.core = Core()
        self.bias = nn.Parameter(torch.ones(()))
        self.count, self.seen, self.held = 0, [], {"a": [1]}
        self.entry = self.before  # a bound method that a module keeps of itself

    def before(self, x):
        return self.inlet(x)

    def forward(self, x):
        return self.core(self.entry(x)) + self.bias


BLOCKS = [f"core.layers.{i}" for i in range(3)]
X = torch.zeros(2)


def made(model=None, shared=True):
    """A skeleton whose leaves are run as ever, and the paths of those that were called."""
    model, called = model or Model(), []

    def answer(path, *args, **kwargs):
        called.append(path)
        return model.get_submodule(path)(*args, **kwargs)

    return model, Skeleton(model, BLOCKS, answer, shared=shared), called


def test_calls_of_leaves_are_answered_and_glue_runs_its_own_forward():
    model, skeleton, called = made()
    assert torch.equal(skeleton.root(X), model(X))
    assert called == ["inlet", *BLOCKS]
    assert skeleton.glue.keys() == {"", "core", "core.layers"} and skeleton.glue["core"] is model.core


def test_what_is_answered_is_what_goes_on():
    model = Model()
    skeleton = Skeleton(model, BLOCKS, lambda path, x: x + 1)
    assert torch.equal(skeleton.root(X), (X + 4) * 2 + 1)


def test_nothing_of_the_model_is_touched():
    model = Model()
    before, call = state(model), nn.Module.__call__
    _, skeleton, _ = made(model, shared=False)
    skeleton.root(X)
    skeleton.root.core.gain = 5
    assert state(model) == before and nn.Module.__call__ is call
    assert skeleton.root is not model and type(skeleton.root) is Model


def test_parameters_are_the_model_s_own():
    model, skeleton, _ = made()
    assert skeleton.root.bias is model.bias
    assert [id(p) for p in skeleton.root.parameters()] == [id(p) for p in model.parameters()]


def test_a_bound_method_leads_to_the_stand_in():
    model, skeleton, called = made()
    assert skeleton.root.entry.__self__ is skeleton.root and model.entry.__self__ is model
    skeleton.root.entry(X)
    assert called == ["inlet"]


def test_hooks_run_around_leaves_once_and_around_glue_too():
    model, ran = Model(), []
    model.core.layers[1].register_forward_hook(lambda *_: ran.append("leaf"))
    model.core.register_forward_hook(lambda *_: ran.append("glue"))
    _, skeleton, _ = made(model)
    skeleton.root(X)
    assert ran == ["leaf", "glue"]


def test_shared_modules_have_one_stand_in():
    model = Model()
    model.again = model.core.layers[0]
    _, skeleton, _ = made(model)
    assert skeleton.root.again is skeleton.root.core.layers[0]


WRITES = {
    "an attribute": (lambda m: setattr(m, "count", 1), "count"),
    "a new one": (lambda m: setattr(m.core, "cache", X), "core.cache"),
    "one removed": (lambda m: delattr(m, "count"), "count"),
    "a list": (lambda m: m.seen.append(1), "seen"),
    "deep in a dict": (lambda m: m.held["a"].append(2), "held"),
    "on glue": (lambda m: setattr(m.core, "gain", 3), "core.gain"),
    "a buffer": (lambda m: m.register_buffer("table", X), "_buffers"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_writes_are_seen(kind):
    write, name = WRITES[kind]
    model, skeleton, _ = made(shared=False)
    before = state(model)
    skeleton.root(X)
    assert skeleton.written() == []
    write(skeleton.root)
    assert skeleton.written() == [name] and state(model) == before


def test_what_was_written_is_handed_over_where_it_is_asked_for():
    model, skeleton, _ = made()
    skeleton.root.count, skeleton.root.core.cache = 7, X
    del skeleton.root.entry
    assert model.count == 0 and not hasattr(model.core, "cache")
    skeleton.hand_over()
    assert model.count == 7 and model.core.cache is X and "entry" not in model.__dict__
    assert "forward" not in model.core.__dict__ and model.core.layers[0](X) is not None


class Nested(nn.Module):
    """A leaf with modules in it, one of which glue calls itself."""

    def __init__(self):
        super().__init__()
        self.first, self.others = Part(1), nn.ModuleList([Part(2), Part(3)])

    def forward(self, x):
        return self.first(x) + self.others[1](x)


class CallsInside(Model):
    def __init__(self):
        super().__init__()
        self.inlet = Nested()
        self.again = self.inlet.first.forward  # bound to a module within a leaf

    def forward(self, x):
        first, second = self.inlet.others
        return super().forward(x) + second(x) + self.inlet.others[0](first(x)) + self.again(x)


def test_what_is_in_a_leaf_is_stood_in_for_on_demand_and_answered_by_its_path():
    model, skeleton, called = made(CallsInside())
    assert torch.equal(skeleton.root(X), model(X))
    inside = ["inlet.others.1", "inlet.others.0", "inlet.others.0"]
    assert called == ["inlet", *BLOCKS, *inside]
    assert [path for _, _, path in skeleton._made.values()].count("inlet.first") == 1


def test_a_skeleton_goes_at_once():
    gc.collect()
    gc.disable()
    try:
        model, skeleton, called = made(CallsInside())
        skeleton.root(X)
        gone = weakref.ref(skeleton)
        del model, skeleton, called
        assert gone() is None
    finally:
        gc.enable()
