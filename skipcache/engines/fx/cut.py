"""Where a traced forward is cut, and the two graphs that follow: that of the full step, and that of the cached step.

The full step also returns H and D. The cached step takes what was kept of full steps and predicts D-hat inside the
graph. Its deep blocks are gone, and with them all glue that only they needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, Streams, alike, handed_in
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.function_mode import Tracer, tracing
from skipcache.engines.fx.trace import LeafCall, Trace, require
from skipcache.stack import Stack

Predict = Callable[[Streams | None, Sequence[Streams], Sequence[Any]], Streams]
Points = list[tuple[Tensor, fx.Node]]


@dataclass(frozen=True)
class Canonical:
    """The model, its stack and batch: what it takes to move a stream to and from the canonical layout."""

    model: nn.Module
    stack: Stack
    batch: int

    def canonical(self, path: str, streams: Iterable[Tensor]) -> Streams:
        return tuple(self.stack.canonical(path, x, self.batch) for x in streams)

    def raw(self, path: str, streams: Iterable[Tensor]) -> Streams:
        return tuple(self.stack.raw(path, x, self.batch) for x in streams)


@dataclass(frozen=True)
class Cut:
    """H and D in a trace: fake tensors and their nodes, as they leave their blocks. Without a head, H enters a block.

    H is None where what enters the first deep block cannot be told apart; `inlets` are the arguments by which it does.
    """

    deep: frozenset[fx.Node]
    H_path: str
    H: Points | None
    D_path: str
    D: Points
    inlets: tuple[Any, ...] = ()

    @classmethod
    def of(cls, trace: Trace, model: nn.Module, stack: Stack, deep: range) -> Cut:
        """`deep` are the indices of the deep blocks among the stack's blocks."""
        index = {path: i for i, path in enumerate(stack.blocks)}
        calls = [call for call in trace.calls if call.path in index]
        ran = [index[call.path] for call in calls]
        head = [call for call in calls if index[call.path] < deep.start]
        skipped = [call for call in calls if index[call.path] in deep]
        if not skipped or ran != sorted(set(ran)) or (deep.start and not head):
            names = ", ".join(call.path for call in calls) or "none"
            raise Untraceable(f"the blocks did not run once each in the order of the stack; they ran: {names}")
        if not skipped[-1].streams:
            raise Untraceable(f"{skipped[-1].path} returns no tensor")
        if head:
            path = head[-1].path
            H: Points | None = list(head[-1].streams)
        else:
            path, inlets = skipped[0].path, _inlets(calls, skipped[0], model) if stack.enters_canonical else (None,)
            H = _entering(skipped[0], inlets, trace.tracer)
        nodes = frozenset(call.node for call in skipped)
        return cls(nodes, path, H, skipped[-1].path, skipped[-1].streams, () if head else inlets)


def finish(trace: Trace, cut: Cut, layout: Canonical) -> Any:
    """Give the trace's graph its output, (what the forward returned, H, D); returns the nesting of the first."""
    tracer = trace.tracer
    leaves, nesting = pytree.tree_flatten(trace.output)
    odd = [leaf for leaf in leaves if not (leaf is None or isinstance(leaf, (Tensor, bool, int, float, str)))]
    if odd:
        raise Untraceable(f"the forward returns a {type(odd[0]).__name__}, which a graph cannot rebuild")
    with tracing(tracer):
        H = None if cut.H is None else layout.canonical(cut.H_path, (x for x, _ in cut.H))
        D = layout.canonical(cut.D_path, (x for x, _ in cut.D))
    trace.graph.output((tuple(map(tracer.argument, leaves)), tracer.argument(H), tracer.argument(D)))
    prune(trace.graph)
    return nesting


def cut_graph(
    full: fx.Graph,
    tracer: Tracer,
    cut: Cut,
    layout: Canonical,
    predict: Predict,
    kept: Sequence[Sequence[Outline]],
    weights: int,
    observed: bool = False,
) -> tuple[fx.Graph, list[Any]]:
    """The cached step's graph, and the constants it takes beyond those of `full`. `observed`: it also returns H.

    Its inputs: those of `full`, one per kept stream, one per weight, then the constants. The weights are 0-d float64
    tensors on the CPU: a bf16, fp16 or float32 tensor times such a tensor is bit-equal with the same times the Python
    float, which would be baked into the graph.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inputs = [node for node in full.nodes if node.op == "placeholder"]
    copies.update((node, graph.node_copy(node)) for node in inputs)
    ours = Tracer(layout.model, graph, like=tracer)
    remembered = tuple(tuple(_input(ours, "kept", spec) for spec in streams) for streams in kept)
    weighing = tuple(_input(ours, "weight", WEIGHT) for _ in range(weights))
    for node in full.nodes:
        if node is _maker(cut.D[0][1]):
            H = _known_again(ours, cut, copies)
            with tracing(ours):
                canonical = None if H is None else layout.canonical(cut.H_path, H)
                D_hat = layout.raw(cut.D_path, predict(canonical, remembered, weighing))
            _check(D_hat, [x for x, _ in cut.D])
            copies.update((at, ours.argument(x)) for (_, at), x in zip(cut.D, D_hat))
        elif node.op == "output":
            _leave(graph, node.args[0][:2] if observed else node.args[0][0], copies)
        elif node not in copies and node not in cut.deep and all(n in copies for n in node.all_input_nodes):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    prune(graph)
    return graph, ours.constants


WEIGHT = Outline(torch.Size(()), torch.float64, torch.device("cpu"), ())


def _input(tracer: Tracer, name: str, outline: Outline) -> Tensor:
    fake = tracer.blank(outline)
    tracer.know(fake, tracer.input(name))
    return fake


def _maker(node: fx.Node) -> fx.Node:
    """The call_module node whose output contains `node`."""
    while node.op != "call_module":
        node = node.all_input_nodes[0]
    return node


def _known_again(tracer: Tracer, cut: Cut, copies: dict[fx.Node, fx.Node]) -> Streams | None:
    if cut.H is None:
        return None
    for x, node in cut.H:
        tracer.know(x, copies[node])
    return tuple(x for x, _ in cut.H)


def _check(D_hat: Sequence[Tensor], D: Sequence[Tensor]) -> None:
    ours, theirs = (list(map(Outline.of, streams)) for streams in (D_hat, D))
    if ours != theirs:
        raise Untraceable(f"the predictor gives {ours} where the deep blocks give {theirs}")


def _leave(graph: fx.Graph, returned: Any, copies: dict[fx.Node, fx.Node]) -> None:
    needed: list[fx.Node] = []
    fx.node.map_arg(returned, needed.append)
    if any(node not in copies for node in needed):
        raise Untraceable("what follows the deep blocks reads more of them than what the last one returns")
    graph.output(fx.node.map_arg(returned, copies.__getitem__))


def prune(graph: fx.Graph) -> None:
    """Erase what no output needs. All nodes are pure, since the trace refused all others."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and node.target is not require:
            graph.erase_node(node)


def _entering(first: LeafCall, inlets: tuple[Any, ...], tracer: Tracer) -> Points | None:
    """What enters the block of `first`, in the order in which it returns its streams."""
    found: Points = []
    for key in inlets:
        if key is None:
            return None
        found.append((first.arguments[key], tracer.argument(first.arguments[key])))
    return found


def _inlets(calls: Sequence[LeafCall], first: LeafCall, model: nn.Module) -> tuple[Any, ...]:
    """For each stream that the block returns, the argument by which it takes it.

    Two blocks of its class that follow each other show it, where one takes in what the other returned; else the first
    argument, not taken yet, that looks like the stream.
    """
    kind = type(model.get_submodule(first.path))
    for one, other in pairwise(calls):
        if type(model.get_submodule(one.path)) is kind is type(model.get_submodule(other.path)):
            inlets = handed_in(_streams(one), other.arguments)
            if None not in inlets:
                return inlets
    return alike(_streams(first), first.arguments)


def _streams(call: LeafCall) -> Streams:
    return tuple(stream for stream, _ in call.streams)
