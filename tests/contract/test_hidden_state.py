"""Blocks that keep a state of their own, in whatever place, and compute by it: no proof passes them by."""

import itertools
import random
import threading
import warnings
from collections import defaultdict, deque
from contextvars import ContextVar
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

import skipcache
from tests.models.odd import Tiny, run, tiny
from tests.models.originals import Block


class Slots:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


TALLY, NUMBERS, PLACE, LOCAL, CELL = (
    defaultdict(int),
    itertools.count(),
    ContextVar("place"),
    threading.local(),
    Slots(),
)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = 0


def closed():
    n = 0

    def following(_):
        nonlocal n
        n += 1
        return n

    return following


def default(_, held=[0]):  # noqa: B006
    held[0] += 1
    return held[0]


def attribute(block):
    block.n = getattr(block, "n", 0) + 1
    return block.n


def listed(block):
    block.held.append(1)
    return len(block.held)


def queued(block):
    block.queue.append(1)
    return len(block.queue)


def buffer(block):
    block.seen += 1
    return block.seen.item()


def memory(block):
    block.memory[0].add_(1)
    return block.memory[0].item()


def data(block):
    block.memory[0].data.add_(1)
    return block.memory[0].item()


def array(block):
    block.array += 1
    return block.array.item()


def held(block):
    block.space.n += 1
    return block.space.n


def nested(block):
    block.space.inner["n"] += 1
    return block.space.inner["n"]


def slotted(block):
    block.slots.n += 1
    return block.slots.n


def elsewhere(block):
    block.others[0].n += 1
    return block.others[0].n


def tallied(_):
    TALLY["n"] += 1
    return TALLY["n"]


def numbered(_):
    return next(NUMBERS)


def iterated(block):
    return next(block.numbers)


def placed(_):
    PLACE.set(PLACE.get(0) + 1)
    return PLACE.get()


def local(_):
    LOCAL.n = getattr(LOCAL, "n", 0) + 1
    return LOCAL.n


def cell(_):
    CELL.n += 1
    return CELL.n


OWN = (attribute, listed, queued, buffer, memory, data, array, held, nested, slotted, elsewhere, iterated)
SHARED = (default, tallied, numbered, placed, local, cell)
STATES = {f.__name__: f for f in (*OWN, *SHARED)}
STATES["closed"] = closed()
STATES["torch's generator"] = lambda block: torch.rand((), generator=block.torch).item()
STATES["torch's own"] = lambda _: torch.rand(()).item()
STATES["Python's generator"] = lambda block: block.python.random()
STATES["NumPy's generator"] = lambda block: block.numpy.random()
STATES["NumPy's old generator"] = lambda block: block.old.rand()


class Remembers(Block):
    def __init__(self, width, state):
        super().__init__(width)
        self.state = state
        self.held, self.queue, self.others = [], deque(), [Counter()]
        self.register_buffer("seen", torch.zeros(()))
        self.memory, self.array = [torch.zeros(())], numpy.zeros(())
        self.space, self.slots = SimpleNamespace(n=0, inner={"n": 0}), Slots()
        self.numbers = iter(range(10**6))
        self.torch, self.python = torch.Generator(), random.Random(0)
        self.numpy, self.old = numpy.random.default_rng(0), numpy.random.RandomState(0)

    def forward(self, x, c):
        return super().forward(x, c) + 0.01 * STATES[self.state](self)


class Ends(Tiny):
    """The first and the last block, which a cached step runs, compute by a state of their own."""

    def __init__(self, state):
        super().__init__()
        self.blocks[-1] = Remembers(16, state)


@pytest.mark.parametrize("engine", ["hooks", "fx"])
@pytest.mark.parametrize("state", STATES)
def test_a_kept_block_that_computes_by_a_state_of_its_own_is_refused(state, engine):
    model = skipcache.accelerate(tiny(Ends, state=state), interval=3, engine=engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(model)
        except RuntimeError as error:
            assert engine == "fx" and "fx" in str(error)
    report = skipcache.report(model)
    assert report.cached_steps == 0 and (report.reasons or engine == "fx")
