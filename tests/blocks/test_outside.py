"""Counters and flags outside of a model: found from the code of its classes, compared, and put back."""

import sys
import types

import pytest
import torch
from torch import nn

from skipcache.blocks import Outside


class Runtime:
    def __init__(self):
        self.calls, self.seen, self.by_name = 0, [], {"a": [1]}


RUNTIME, COUNT, FLAGS = Runtime(), 0, {"on"}
other = types.ModuleType("other_module")
other.COUNT = 0
other.UNNAMED = 0
sys.modules["other_module"] = other


def runtime():
    return RUNTIME


def tick():
    tick.calls = getattr(tick, "calls", 0) + 1


def counter():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step


closed = counter()


class Model(nn.Module):
    kept = [0.0]  # noqa: RUF012
    total = 0

    def __init__(self):
        super().__init__()
        self.state = Runtime()

    def forward(self, what):
        global COUNT
        if what == "object":
            runtime().calls += 1
        elif what == "list":
            RUNTIME.seen.append(1)
        elif what == "nested":
            RUNTIME.by_name["a"].append(2)
        elif what == "global":
            COUNT += 1
        elif what == "set":
            FLAGS.add("off")
        elif what == "module":
            other.COUNT += 1
        elif what == "closure":
            closed()
        elif what == "function":
            tick()
        elif what == "class":
            type(self).total += 1
        elif what == "class list":
            self.kept[0] += 0.5
        elif what == "attribute":
            self.state.calls += 1
        elif what == "new":
            RUNTIME.fresh = torch.zeros(1)


NAMES = {
    "object": "Runtime.calls",
    "list": "Runtime.seen.0",
    "nested": "Runtime.by_name.a.1",
    "global": "COUNT",
    "set": "FLAGS.off",
    "module": "COUNT",
    "closure": "count",
    "function": "tick.calls",
    "class": "Model.total",
    "class list": "kept.0",
    "attribute": "Runtime.calls",
    "new": "Runtime.fresh",
}


def values(model):
    held = RUNTIME.calls, list(RUNTIME.seen), RUNTIME.by_name["a"].copy(), COUNT, FLAGS.copy(), other.COUNT
    return (
        *held,
        closed.__closure__[0].cell_contents,
        dict(vars(tick)),
        Model.total,
        Model.kept.copy(),
        model.state.calls,
    )


@pytest.mark.parametrize("what", NAMES)
def test_what_a_forward_changes_is_named_and_put_back(what):
    model = Model()
    before, outside = values(model), Outside(model.modules())
    assert outside.changed() == []
    model(what)
    assert any(name.endswith(NAMES[what]) for name in outside.changed())
    outside.put_back()
    assert outside.changed() == [] and values(model) == before and not hasattr(RUNTIME, "fresh")


def test_whole_numbers_alone_can_be_asked_for():
    model = Model()
    outside = Outside(model.modules())
    model("class list")
    assert outside.changed(int) == []
    model("global")
    assert outside.changed(int) == ["COUNT"]
    outside.put_back()


def test_variables_that_no_code_of_the_model_names_are_left_alone():
    outside = Outside(Model().modules())
    other.UNNAMED += 1
    outside.put_back()
    assert other.UNNAMED == 1
