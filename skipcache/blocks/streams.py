"""The tensors that a block hands on: what it returns, taken apart, and the arguments by which the next one takes it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

Streams = tuple[Tensor, ...]


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Hashable, Any]:
    arguments: dict[Hashable, Any] = dict(enumerate(args))
    arguments.update(kwargs)
    return arguments


def alike(streams: Streams, arguments: Mapping[Hashable, Any]) -> tuple[Hashable, ...]:
    """A guess at the inlets: for each stream the first argument, not taken yet, that looks like it."""
    inlets: list[Hashable] = []
    for stream in streams:
        fitting = (k for k, x in arguments.items() if isinstance(x, Tensor) and _look(x) == _look(stream))
        inlets.append(next((key for key in fitting if key not in inlets), None))
    return tuple(inlets)


def take_apart(output: Any) -> tuple[Streams, Any]:
    """A block's output as streams and the nesting they came in: a tensor, or a flat tuple or list of them."""
    if isinstance(output, Tensor):
        return (output,), None
    if not isinstance(output, (tuple, list)):
        return (), output
    streams = tuple(x for x in output if isinstance(x, Tensor))
    shape: list[Any] = [... if isinstance(x, Tensor) else x for x in output]
    return streams, type(output)(*shape) if hasattr(output, "_fields") else type(output)(shape)


def rebuild(shape: Any, streams: list[Any]) -> Any:
    """The inverse of `take_apart`."""
    if shape is None:
        return streams[0]
    rest = iter(streams)
    items = [next(rest) if x is ... else x for x in shape]
    return type(shape)(*items) if hasattr(shape, "_fields") else type(shape)(items)


def handed_in(streams: Streams, arguments: Mapping[Hashable, Any]) -> tuple[Hashable, ...]:
    """For each stream the argument that is this very tensor, or None."""
    return tuple(next((key for key, x in arguments.items() if x is stream), None) for stream in streams)


def _look(x: Tensor) -> Any:
    return tuple(x.shape), x.dtype, x.device


def stream_count(block: nn.Module) -> int:
    """How many tensors the block returns, by the `return` of its code; 1 where that does not show it."""
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(type(block).forward))))
    except (OSError, TypeError, SyntaxError):
        return 1
    returned = [node.value for node in ast.walk(code) if isinstance(node, ast.Return)]
    tuples = [[x for x in value.elts if not _is_none(x)] for value in returned if isinstance(value, ast.Tuple)]
    return max(map(len, tuples), default=1)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def usual_width(block: nn.Module) -> int:
    """What most of the block's linear layers take in."""
    taken = Counter(module.in_features for module in block.modules() if isinstance(module, nn.Linear))
    if not taken:
        raise ValueError(f"width: {type(block).__name__} has no linear layer to tell it by; pass width=...")
    return max(taken, key=lambda n: (taken[n], -n))
