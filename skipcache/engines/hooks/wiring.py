"""How the blocks of a model hand on their streams, as a full step showed it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipcache.blocks.streams import rebuild
from skipcache.trajectory.call import outline


@dataclass(frozen=True)
class Outlet:
    """How a block hands out its streams: nesting, what each looks like, and the argument it came in by."""

    shape: Any
    outlines: tuple[Any, ...]
    inlets: tuple[Hashable, ...]

    def hand_through(self, arguments: Mapping[Hashable, Any]) -> Any:
        """The block's output without the block; a stream that came in by no argument is left blank."""
        streams = []
        for key, (size, dtype, device) in zip(self.inlets, self.outlines):
            x = arguments.get(key)
            fits = isinstance(x, Tensor) and outline(x) == (size, dtype, device)
            streams.append(x if fits else torch.empty(size, dtype=dtype, device=device))
        return rebuild(self.shape, streams)


@dataclass(frozen=True)
class Wiring:
    """What a full step of one signature showed.

    `shallow` is the block of the head that was called last (-1: no head), `first` and `last` are the deep blocks that
    were called first and last, `shape` is the nesting of the last one's output. `copies`: the model writes to its
    features in place. `refusal`: why a cached step would be wrong.
    """

    shallow: int = -1
    first: int = -1
    last: int = -1
    shape: Any = None
    outlets: Mapping[int, Outlet] = field(default_factory=dict)
    copies: bool = False
    refusal: str | None = None
