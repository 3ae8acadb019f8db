"""One forward as a graph: its glue, and calls of its leaves by path."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Generators, Outline, arguments_of, as_entering
from skipcache.branches import SKIPS, branches_of
from skipcache.engines.fx.errors import Stale, Untraceable
from skipcache.engines.fx.function_mode import Tracer, tracing
from skipcache.engines.fx.reads import Reads
from skipcache.engines.fx.recording import Recording
from skipcache.engines.fx.skeleton import Skeleton


def require(value: Any, expected: Any) -> None:
    """Stands in a graph behind a leaf that returns a plain value, which the graph holds for constant."""
    if type(value) is not type(expected) or value != expected:
        raise Stale(f"a submodule returned {value!r} where its graph was made for {expected!r}")


@dataclass(frozen=True)
class LeafCall:
    """A leaf's call in a trace. `streams` are the tensors that it returns, fakes, each with its node.

    `arguments` are those that its own forward gets, behind hooks that split them.
    """

    path: str
    node: fx.Node
    arguments: dict[Hashable, Any]
    streams: list[tuple[Tensor, fx.Node]]


@dataclass(frozen=True)
class Trace:
    """`graph` is without an output yet, `tracer` knows its tensors, `output` is what the forward returned, fakes in it.

    `calls` are those of the leaves, in order; `glue` are the modules whose own code went into the graph, and `reads` is
    what that code could read beside them.
    """

    graph: fx.Graph
    tracer: Tracer
    output: Any
    calls: list[LeafCall]
    glue: dict[str, nn.Module]
    reads: Reads


def trace(
    function: Any,
    model: nn.Module,
    blocks: Collection[str],
    recording: Recording,
    names: list[str],
    leaves: list[Any],
    spec: Any,
) -> Trace:
    """The graph of `function(model, *args, **kwargs)`, the arguments being `leaves` in the nesting `spec`.

    The tensors among them are the graph's first inputs. Runs nothing but the glue, and that on fake tensors. Raises
    Untraceable, or whatever the forward raises when it meets a tensor without values.
    """
    graph = fx.Graph()
    tracer = Tracer(model, graph)
    left = {path: list(calls) for path, calls in recording.returned.items()}
    calls: list[LeafCall] = []

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        if not left.get(path):
            raise Untraceable(f"{path} was called more often in the trace than in the step it was to repeat")
        return replay(path, left[path].pop(0), args, kwargs)

    def replay(path: str, returned: tuple[list[Any], Any], args: Any, kwargs: Any) -> Any:
        arguments = arguments_of(*as_entering(model.get_submodule(path), args, kwargs))
        node = tracer.emit("call_module", path, args, {**kwargs, **handed_over(path, args, kwargs)})
        output = pytree.tree_unflatten([_filled(tracer, path, leaf) for leaf in returned[0]], returned[1])
        parts = list(tracer.parts(output, node))
        streams = [(part, at) for part, at in parts if isinstance(part, Tensor)]
        for fake, at in streams:
            tracer.know(fake, at)
        for part, at in parts:
            if isinstance(part, (bool, int, float, str)):
                graph.call_function(require, (at, part))
        calls.append(LeafCall(path, node, arguments, streams))
        return output

    def handed_over(path: str, args: Any, kwargs: Any) -> dict[str, Any]:
        if branches is None:
            return {}
        returned = {call.path: tuple(x for x, _ in call.streams) for call in calls}
        skips = branches.wire(path, args, kwargs, returned)
        return {} if skips is None else {SKIPS: skips}

    branches = branches_of(model)
    skeleton = Skeleton(model, blocks, answer, shared=False)
    filled = [_argument(tracer, name, leaf) for name, leaf in zip(names, leaves)]
    args, kwargs = pytree.tree_unflatten(filled, spec)
    with torch.inference_mode(False), torch.no_grad(), _no_draws(), tracing(tracer), Reads() as reads:
        output = function(skeleton.root, *args, **kwargs)
    missed = [path for path, rest in left.items() if rest]
    if missed:
        raise Untraceable(f"{missed[0]} was called in the step but not when its forward was traced")
    written = skeleton.written()
    if written:
        raise Untraceable(f"the forward sets {', '.join(sorted(written)[:3])} on the model, which a graph would lose")
    return Trace(graph, tracer, output, calls, skeleton.glue, reads)


def _argument(tracer: Tracer, name: str, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    fake = tracer.blank(Outline.exactly(leaf))
    tracer.know(fake, tracer.input(name))
    return fake


def _filled(tracer: Tracer, path: str, leaf: Any) -> Any:
    if isinstance(leaf, Outline):
        return tracer.blank(leaf)
    if leaf is None or isinstance(leaf, (bool, int, float, str, torch.dtype, torch.device)):
        return leaf
    raise Untraceable(f"{path} returns a {type(leaf).__name__}, which a graph cannot follow")


@contextmanager
def _no_draws() -> Iterator[None]:
    """Refuses Python's and NumPy's random numbers, which torch sees nothing of, and gives back what was drawn."""
    before = Generators(torch.device("cpu"))
    yield
    drawn = before.drawn()
    if drawn:
        before.put_back()
        raise Untraceable(f"the forward draws random numbers from {drawn[0]}")
