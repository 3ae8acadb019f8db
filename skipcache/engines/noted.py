"""Tensors that cross the border of a block, noted as they are, to be compared and handed out later."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.blocks import Outline, equal_values, version


class Made:
    """A tensor that a block has returned. `kept` holds its values, `now` is what the proof hands out for it."""

    def __init__(self, x: Tensor) -> None:
        self.outline, self.version, self.seen = Outline.exactly(x), version(x), weakref.ref(x)
        self.kept: Tensor | None = x
        self.now: Tensor | None = None

    def hand_out(self) -> Tensor:
        if self.kept is None:
            self.now = self._blank("meta")
        elif 0 in self.kept.stride():  # an expanded tensor, which cannot be written to
            self.now = self.kept.clone()
        else:
            self.now = self._blank(self.kept.device).copy_(self.kept)
        return self.now

    def _blank(self, device: torch.device | str) -> Tensor:
        shape, dtype, _, stride = self.outline
        return torch.empty_strided(shape, stride or (), dtype=dtype, device=device)

    def is_same(self, x: Any) -> bool:
        if self.kept is None:
            return x is self.now
        return isinstance(x, Tensor) and self.outline == Outline.exactly(x) and equal_values(x, self.kept)

    def is_written(self, x: Tensor) -> bool:
        """`x`, which is this tensor, was written to since the block returned it."""
        return version(x) != self.version


class Given:
    """A tensor that a block was given and that none has returned, as it was then."""

    def __init__(self, x: Tensor) -> None:
        self.outline, self.copy, self.seen = Outline.exactly(x), x.clone(), weakref.ref(x)

    def is_same(self, x: Any) -> bool:
        return isinstance(x, Tensor) and self.outline == Outline.exactly(x) and equal_values(x, self.copy)


def ambient() -> Hashable:
    """What torch functions obey beside their arguments, on this thread."""
    kinds = ("cpu", "cuda")
    autocast = tuple(torch.get_autocast_dtype(k) if torch.is_autocast_enabled(k) else None for k in kinds)
    return autocast, torch.is_grad_enabled(), torch.get_default_dtype()


def before(x: Tensor, note: Made | Given) -> Tensor | None:
    """`x` as it is before a block runs that is given it."""
    if isinstance(note, Given):
        return note.copy
    return None if note.kept is None else x.clone()


def is_simple(x: Tensor) -> bool:
    """It has values of its own, in strides, on this process."""
    return type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided


def is_same(then: Any, now: Any) -> bool:
    if isinstance(then, (Made, Given)):
        return then.is_same(now)
    return then is now or (type(then) is type(now) and bool(then == now))
