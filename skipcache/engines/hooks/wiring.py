"""How the blocks of a model hand on their streams, as a full step showed it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from skipcache.blocks import Outline, rebuild


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
            fits = isinstance(x, Tensor) and Outline.of(x) == outline
            streams.append(x if fits else outline.blank())
        return rebuild(self.shape, streams)


@dataclass(frozen=True)
class Wiring:
    """What a full step of one signature showed.

    Attributes:
        shallow: index of the head's block that was called last; -1 without a head.
        first, last: indices of the deep blocks that were called first and last.
        shape: the nesting of the last one's output.
        outlets: by index of the block.
        copies: the model writes to its features in place, so that copies must be kept.
        idle_head: nothing but the prediction reads the head's output.
        refusal: why a cached step would be wrong.
    """

    shallow: int = -1
    first: int = -1
    last: int = -1
    shape: Any = None
    outlets: Mapping[int, Outlet] = field(default_factory=dict)
    copies: bool = False
    idle_head: bool = False
    refusal: str | None = None
