"""How far the shallow feature H has moved since the last full step, for policies that cache until it moved too far.

One number per lane, in float32 on the feature's own device: the sum of the relative changes of H from step to step,
||H_t - H_(t-1)|| / ||H_(t-1)|| over all streams. The coming step is expected to change as much as the last one did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from skipcache.blocks import Outline, Streams


class Drift:
    """Of one lane. `H` is that of the last step, kept by reference."""

    def __init__(self) -> None:
        self.H: Streams | None = ()
        self._change: Tensor | None = None
        self._moved: Tensor | None = None

    def follow(self, H: Streams | None, full: bool = False) -> None:
        """A step is over, and left H; None where it cannot be told apart."""
        before, self.H = self.H, H
        if H is None or (before and list(map(Outline.of, before)) != list(map(Outline.of, H))):
            self.H = self._change = self._moved = None
            return
        change = _change(before, H) if before else None
        moved = change if self._moved is None or change is None else self._moved + change
        self._change, self._moved = change, None if full else moved

    @property
    def expected(self) -> Tensor | None:
        """At the step to come; None while there was no change to tell by."""
        if self._change is None or self._moved is None:
            return self._change
        return self._moved + self._change

    @property
    def is_known(self) -> bool:
        return self.H is not None


def farthest(drifts: Iterable[Drift]) -> float:
    """The largest expected drift; 0 while no change was seen, infinite where H is not known. Synchronises once."""
    drifts = list(drifts)
    if not all(drift.is_known for drift in drifts):
        return math.inf
    expected = [drift.expected for drift in drifts]
    known = [x for x in expected if x is not None]
    if any(x.is_meta for x in known):
        return math.inf  # no values
    return torch.stack(known).max().item() if known else 0.0


def _change(before: Streams, H: Streams) -> Tensor:
    """The relative change ||H - before|| / ||before||, 0-d float32. 0 / 0 is 0, and x / 0 is infinite."""
    moved = _norm(tuple(h.float() - b.float() for b, h in zip(before, H)))
    return torch.where(moved == 0, moved, moved / _norm(before))


def _norm(streams: Streams) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(x, dtype=torch.float32) for x in streams]).norm()
