"""A trace has the glue of one forward and the calls of its leaves, and runs no leaf."""

import random

import numpy
import pytest
import torch

from skipcache.engines.fx.errors import Stale, Untraceable
from skipcache.engines.fx.trace import require
from tests.models.traces import STACK, Glued, arguments, glued, recorded, run_graph, traced


def test_calls_are_those_of_the_leaves_in_order():
    found = traced(glued(), arguments())
    assert [call.path for call in found.calls] == ["inlet", *STACK.blocks, "outlet"]
    assert all(len(call.streams) == 1 and call.streams[0][1] is call.node for call in found.calls)
    assert set(found.glue) == {"", "blocks"}


def test_the_graph_gives_what_the_model_gives_on_other_values():
    model = glued()
    found = traced(model, arguments())
    found.graph.output(found.tracer.argument(found.output))
    for seed, t in ((1, 0.7), (2, -3.0)):
        args = arguments(seed, t)
        assert torch.equal(run_graph(found.graph, model, *args, *found.tracer.constants)["eps"], model(*args)["eps"])


def test_no_leaf_runs_and_nothing_is_left_on_the_model():
    model, ran = glued(), []
    args, recording = arguments(), recorded(model, arguments())
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    for block in model.blocks:
        block.mix.forward = lambda x: ran.append(1)
    traced(model, args, recording)
    for block in model.blocks:
        del block.mix.forward
    assert ran == [] and {path: dict(module.__dict__) for path, module in model.named_modules()} == before


class Writes(Glued):
    def after(self, x):
        self.seen = x
        return x


class Draws(Glued):
    def after(self, x):
        return x * random.random()


class DrawsFromNumpy(Glued):
    def after(self, x):
        return x * float(numpy.random.rand())


class Wraps(Glued):
    """A leaf returns an object that a graph cannot take apart."""

    def __init__(self):
        super().__init__()
        self.odd = Odd()

    def after(self, x):
        return x + self.odd(x).value


class Odd(torch.nn.Module):
    def forward(self, x):
        return type("Found", (), {"value": 1.0})()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Writes, "sets seen on the model"),
        (Draws, "draws random numbers from Python's random"),
        (DrawsFromNumpy, "draws random numbers from NumPy"),
        (Wraps, "odd returns a Found, which a graph cannot follow"),
    ],
)
def test_what_a_graph_would_lose_is_refused(kind, message):
    model, args = glued(kind), arguments()
    recording = recorded(model, args)
    states = random.getstate(), numpy.random.get_state()[2]
    with pytest.raises(Untraceable, match=message):
        traced(model, args, recording)
    assert (random.getstate(), numpy.random.get_state()[2]) == states, "and what was drawn is given back"


class Branches(Glued):
    """Calls another leaf where a plain value has changed since the recording."""

    runs = 0

    def after(self, x):
        return self.inlet(x) if Branches.runs else x


class Leaves(Glued):
    runs = 0

    def after(self, x):
        return x if Leaves.runs else self.inlet(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Branches, "inlet was called more often in the trace"), (Leaves, "inlet was called in the step but not when")],
)
def test_a_forward_that_goes_another_way_in_the_trace_is_refused(kind, message, monkeypatch):
    model, args = glued(kind), arguments()
    recording = recorded(model, args)
    monkeypatch.setattr(kind, "runs", 1)
    with pytest.raises(Untraceable, match=message):
        traced(model, args, recording)


def test_a_plain_value_that_a_leaf_returns_is_checked_at_each_run():
    require(3, 3)
    require("a", "a")
    for value, expected in ((4, 3), (3.0, 3), (True, 1), (None, 3)):
        with pytest.raises(Stale, match="where its graph was made for"):
            require(value, expected)


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.number = 2

    def forward(self, x):
        return x + 1, self.number


class Counts(Glued):
    def __init__(self):
        super().__init__()
        self.counted = Counted()

    def after(self, x):
        y, number = self.counted(x)
        return y * number


def test_a_graph_is_stale_where_a_leaf_returns_another_plain_value():
    model, args = glued(Counts), arguments()
    found = traced(model, args)
    found.graph.output(found.tracer.argument(found.output))
    inputs = (*args, *found.tracer.constants)
    assert torch.equal(run_graph(found.graph, model, *inputs)["eps"], model(*args)["eps"])
    model.counted.number = 3
    with pytest.raises(Stale, match="returned 3 where its graph was made for 2"):
        run_graph(found.graph, model, *inputs)
