"""Whatever a module keeps, in whatever place, is seen to change; what cannot be compared is named."""

from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

from skipcache.blocks import Footprint


class Slots:
    __slots__ = ("n",)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.n, self.held, self.tensors = 0, {"a": [1, {2}]}, (torch.zeros(2),)
        self.space, self.slots, self.array = SimpleNamespace(deep=[SimpleNamespace(n=0)]), Slots(), numpy.zeros(2)
        self.slots.n = 0
        self.push = self.space.deep.append


CHANGES = {
    "an attribute": lambda m: setattr(m, "n", 1),
    "a new one": lambda m: setattr(m, "new", 1),
    "a list": lambda m: m.held["a"].append(1),
    "a set": lambda m: m.held["a"][1].add(3),
    "a tensor": lambda m: m.tensors[0].add_(1),
    "a tensor, uncounted": lambda m: m.tensors[0].data.add_(1),
    "a buffer": lambda m: m.mean.add_(1),
    "another buffer": lambda m: setattr(m, "mean", torch.zeros(2)),
    "an object": lambda m: setattr(m.space.deep[0], "n", 1),
    "a bound function": lambda m: m.push(1),
    "a slot": lambda m: setattr(m.slots, "n", 1),
    "an array": lambda m: m.array.put(0, 1),
    "a child": lambda m: setattr(m.inner, "n", 1),
    "a weight": lambda m: m.inner.weight.detach().add_(1),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_seen(kind):
    module = Keeps()
    before = Footprint([module])
    assert before.opaque is None and not before.changed()
    CHANGES[kind](module)
    assert before.changed()


def test_running_a_plain_module_changes_nothing():
    module = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    before = Footprint([module])
    with torch.no_grad():
        module(torch.ones(1, 2, 8))
    assert not before.changed()


@pytest.mark.parametrize("kept", [iter([1]), (n for n in range(3)), memoryview(b"x")])
def test_what_cannot_be_compared_is_named(kept):
    module = nn.Linear(2, 2)
    module.kept = kept
    before = Footprint([module])
    assert type(kept).__name__ in before.opaque and before.changed()


def test_others_are_followed_too():
    held = [1]
    before = Footprint([], [held])
    held.append(2)
    assert before.changed()
