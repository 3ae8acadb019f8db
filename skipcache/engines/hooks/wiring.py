"""How the blocks of a model hand on their streams, as a full step showed it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor

from skipcache.blocks import Outline, Streams, rebuild


@dataclass(frozen=True)
class Outlet:
    """How a block hands out its streams: nesting, what each looks like, and the argument it came in by."""

    shape: Any
    outlines: tuple[Outline, ...]
    inlets: tuple[Hashable, ...]

    def hand_through(self, arguments: Mapping[Hashable, Any]) -> Any:
        """The block's output without the block; a stream that came in by no argument is left blank."""
        streams = []
        for key, outline in zip(self.inlets, self.outlines):
            x = arguments.get(key)
            fits = isinstance(x, Tensor) and outline.is_of(x)
            streams.append(x if fits else outline.blank())
        return rebuild(self.shape, streams)


def outlines_of(arguments: Mapping[Hashable, Any]) -> dict[Hashable, Outline]:
    return {key: Outline.of(x) for key, x in arguments.items() if isinstance(x, Tensor)}


@dataclass(frozen=True)
class Wiring:
    """What a full step of one signature showed.

    Attributes:
        shallow: index of the head's block that was called last; -1 without a head.
        first, last: indices of the deep blocks that were called first and last.
        shape: the nesting of the last one's output.
        outlets: by index of the block, in the order in which the blocks were called.
        entry: the outlines of the tensors that the first of them was given.
        shapes: of D, in the canonical layout.
        copies: the model writes to its features in place, so that copies must be kept.
        idle_head: nothing but the prediction reads the head's output.
        anew: another wiring of this signature was dropped before, and lanes may still hold features of that one.
        refusal: why a cached step would be wrong.
    """

    shallow: int = -1
    first: int = -1
    last: int = -1
    shape: Any = None
    outlets: Mapping[int, Outlet] = field(default_factory=dict)
    entry: Mapping[Hashable, Outline] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    copies: bool = False
    idle_head: bool = False
    anew: bool = False
    refusal: str | None = None

    @cached_property
    def through(self) -> dict[int, int]:
        """Deep blocks that hand on what the one before them, the value, handed out, where they are given just that."""
        called = list(self.outlets)
        pairs = ((i, j) for i, j in pairwise(called) if self.first <= i and j < self.last)
        return {j: i for i, j in pairs if self.outlets[i].outlines == self.outlets[j].outlines}

    def suits(self, kept: Sequence[Streams]) -> bool:
        """A prediction from `kept` can be of this wiring's D: some of what is kept has its shapes."""
        return not self.anew or any(tuple(tuple(x.shape) for x in streams) == self.shapes for streams in kept)
