"""The tensors that a block hands on: what it returns, taken apart, and the arguments by which the next one takes it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from skipcache.blocks.outline import Outline

Streams = tuple[Tensor, ...]


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Hashable, Any]:
    arguments: dict[Hashable, Any] = dict(enumerate(args))
    arguments.update(kwargs)
    return arguments


def alike(streams: Streams, arguments: Mapping[Hashable, Any]) -> tuple[Hashable, ...]:
    """A guess at the inlets: for each stream the first argument, not taken yet, that looks like it."""
    inlets: list[Hashable] = []
    for stream in streams:
        fitting = (k for k, x in arguments.items() if isinstance(x, Tensor) and Outline.of(x) == Outline.of(stream))
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


def tensors_of(output: Any) -> Iterator[Tensor]:
    """All tensors of a model's output, in order; those of an output object are its attributes."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (x for x in vars(leaf).values() if isinstance(x, Tensor))
