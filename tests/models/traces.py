"""A small denoiser with glue between its blocks, and the way from a call of it to a recording, a trace and a cut."""

import torch
from torch import nn
from torch.utils import _pytree as pytree

from skipcache.engines.fx.cut import Cut
from skipcache.engines.fx.recording import record
from skipcache.engines.fx.trace import trace
from skipcache.stack import Stack, deep_blocks, make_plan

STACK = Stack(tuple((f"blocks.{i}",) for i in range(4)), "x", "t")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, x, c):
        return x + self.mix(x) * c


class Glued(nn.Module):
    """Glue before, between and behind the blocks."""

    def __init__(self):
        super().__init__()
        self.inlet, self.outlet = nn.Linear(3, 3), nn.Linear(3, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.gain = nn.Parameter(torch.tensor(2.0))

    def between(self, x, i):
        return x * (i + 1)

    def after(self, x):
        return x

    def forward(self, x, t):
        c = torch.sin(t.float())[:, None]
        x = self.inlet(x).tanh()
        for i, block in enumerate(self.blocks):
            x = block(self.between(x, i), c)
        return {"eps": self.outlet(self.after(x)) * self.gain}


def glued(kind=Glued, seed=0):
    torch.manual_seed(seed)
    return kind().eval().requires_grad_(False)


def arguments(seed=0, t=0.3):
    return (torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)), torch.full((2,), t))


def deep_of(keep):
    return deep_blocks(STACK, make_plan(4, keep))


def recorded(model, args, deep=range(1, 3)):
    return record(type(model).forward, model, STACK.blocks, deep, args, {})


@torch.no_grad()
def traced(model, args, recording=None):
    """The trace of the forward on `args`, whose tensors are its inputs."""
    recording = recorded(model, args) if recording is None else recording
    leaves, spec = pytree.tree_flatten((args, {}))
    names = [f"input_{i}" for i in range(len(leaves))]
    return trace(type(model).forward, model, STACK.blocks, recording, names, leaves, spec)


@torch.no_grad()
def cut_of(model, args, keep=1):
    """A trace, and where it is cut."""
    deep = deep_of(keep)
    found = traced(model, args, recorded(model, args, deep))
    return found, Cut.of(found, model, STACK, deep)


def run_graph(graph, model, *inputs):
    """The graph as code, run against the live model."""
    code, made = graph.python_code("self"), {}
    exec(code.src, code.globals, made)
    with torch.no_grad():
        return made["forward"](model, *inputs)
