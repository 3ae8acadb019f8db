"""A guard holds while the model has what a graph took for constant, and notices each kind of change."""

import pytest
import torch
from torch import nn

from skipcache.engines.fx.assumptions import Guard


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.inside = 3


class Glue(nn.Module):
    def __init__(self):
        super().__init__()
        self.leaf, self.other = Leaf(), Leaf()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("none", None)
        self.scale, self.name, self.config = 2.0, "a", {"steps": 3, "sizes": [1, 2]}
        self.loose, self.listed, self.helper = torch.ones(2), [torch.ones(2)], object()


@pytest.fixture
def model():
    return Glue()


@pytest.fixture
def guard(model):
    found = Guard([model], [model.leaf, model.other])
    assert found.holds()
    return found


NOTICED = {
    "a number": lambda m: setattr(m, "scale", 3.0),
    "its type": lambda m: setattr(m, "scale", 2),
    "a string": lambda m: setattr(m, "name", "b"),
    "a value in a dict": lambda m: m.config.update(steps=4),
    "a key of a dict": lambda m: m.config.update(more=1),
    "a list in a dict": lambda m: m.config["sizes"].append(3),
    "a tensor's shape": lambda m: setattr(m, "loose", torch.ones(3)),
    "a tensor's dtype": lambda m: setattr(m, "loose", torch.ones(2, dtype=torch.float64)),
    "a tensor in a list": lambda m: m.listed.__setitem__(0, torch.ones(2)),
    "an object": lambda m: setattr(m, "helper", object()),
    "an attribute that is gone": lambda m: delattr(m, "scale"),
    "a parameter's shape": lambda m: setattr(m, "weight", nn.Parameter(torch.ones(3))),
    "a parameter's dtype": lambda m: m.double(),
    "a buffer's shape": lambda m: setattr(m, "table", torch.ones(5)),
    "a buffer that was none": lambda m: setattr(m, "none", torch.ones(2)),
    "one parameter more": lambda m: m.register_parameter("extra", nn.Parameter(torch.ones(1))),
    "one child more": lambda m: m.add_module("extra", nn.Linear(2, 2)),
    "a child that is gone": lambda m: delattr(m, "other"),
    "another child": lambda m: setattr(m, "leaf", Leaf()),
    "training mode": lambda m: m.eval() if m.training else m.train(),
    "a leaf's dtype": lambda m: m.leaf.half(),
}


@pytest.mark.parametrize("kind", NOTICED)
def test_a_change_is_noticed(model, guard, kind):
    NOTICED[kind](model)
    assert not guard.holds()


LEFT_ALONE = {
    "values of tensors": lambda m: [m.loose.mul_(2), m.table.mul_(2), m.weight.data.mul_(2), m.listed[0].mul_(2)],
    "another tensor that looks alike": lambda m: setattr(m, "loose", torch.zeros(2)),
    "an equal container": lambda m: setattr(m, "config", {"steps": 3, "sizes": [1, 2]}),
    "what a leaf does inside": lambda m: setattr(m.leaf, "inside", 4),
    "a library's wrapper": lambda m: m.__dict__.update(_hf_hook=object(), forward=print),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_a_graph_reads_anew_is_none_of_its_business(model, guard, kind):
    LEFT_ALONE[kind](model)
    assert guard.holds()


def test_a_change_back_is_no_change(model, guard):
    model.scale = 3.0
    assert not guard.holds()
    model.scale = 2.0
    assert guard.holds()
