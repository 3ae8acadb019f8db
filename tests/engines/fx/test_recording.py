"""The first step runs as ever, and what its leaves return is written down without values."""

import pytest
import torch
from torch import nn

from skipcache.blocks import Outline
from skipcache.engines.fx.recording import record

BLOCKS = [f"blocks.{i}" for i in range(4)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, x):
        return self.mix(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.size = Size()
        self.calls = 0

    def between(self, x):
        return x

    def forward(self, x, *, twice=False):
        self.calls += 1
        number, kept = self.size(x)
        for block in self.blocks:
            x = self.between(block(x))
        return {"eps": self.size(kept)[1] if twice else x * number}


class Size(nn.Module):
    """A leaf that returns a plain value beside a tensor."""

    def forward(self, x):
        return len(x), x.t()


X = torch.randn(2, 3)


def recorded(model, deep=range(1, 3), **kwargs):
    with torch.no_grad():
        return record(type(model).forward, model, BLOCKS, deep, (X,), kwargs)


def test_the_output_and_what_the_forward_writes_are_those_of_a_plain_run():
    model = Model()
    found = recorded(model)
    assert model.calls == 1
    with torch.no_grad():
        assert torch.equal(found.output["eps"], model(X)["eps"])


def test_each_call_of_a_leaf_has_its_entry_and_calls_within_a_leaf_have_none():
    found = recorded(Model(), twice=True)
    assert found.returned.keys() == {"size", *BLOCKS}
    assert [len(found.returned[path]) for path in ("size", "blocks.0")] == [2, 1]
    ((leaves, _),) = found.returned["blocks.0"]
    assert leaves == [Outline.exactly(X)]
    (number, outline), _ = found.returned["size"][0]
    assert number == 2 and outline.stride == (1, 3), "plain values are kept, tensors but for their values"


class InPlace(Model):
    def between(self, x):
        self.reached = getattr(self, "reached", 0) + 1
        return x.mul_(2) if self.reached == self.at else x


@pytest.mark.parametrize(
    ("deep", "at", "overwritten"),
    [
        (range(1, 3), 1, ["blocks.0"]),  # what the head hands out
        (range(1, 3), 2, []),  # within the deep part: no cached step reads it
        (range(1, 3), 3, ["blocks.2"]),  # what the deep part hands out
        (range(1, 3), 4, []),  # the tail runs on every step
        (range(3), 1, []),
        (range(4), 4, ["blocks.3"]),
    ],
)
def test_features_that_the_rest_of_the_step_writes_to_are_told(deep, at, overwritten):
    model = InPlace()
    model.at = at
    assert recorded(model, deep).overwritten == overwritten


def test_without_a_head_what_enters_the_first_block_is_watched():
    class Enters(Model):
        def forward(self, x):
            x = x + 0
            y = self.blocks[0](x)
            x.mul_(2)
            for block in self.blocks[1:]:
                y = block(y)
            return y + x

    assert recorded(Enters(), range(3)).overwritten == ["blocks.0"]
    assert recorded(Enters(), range(1, 3)).overwritten == []


def test_nothing_was_written_to_where_there_are_no_values():
    model = InPlace().to("meta")
    model.at = 1
    with torch.no_grad():
        found = record(type(model).forward, model, BLOCKS, range(1, 3), (X.to("meta"),), {})
    assert found.overwritten == [] and found.output["eps"].is_meta
