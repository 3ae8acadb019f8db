"""An argument as it was at one call, to be compared with another one later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipcache.blocks import on_host, outline_of, version


def is_plain(value: Any) -> bool:
    """A Python value that `==` compares fully."""
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))


@dataclass(frozen=True, eq=False)
class Mark:
    """An argument as it was at one call. It holds the tensor, so that its memory is not given to another one.

    `copy` stands in for the version of inference tensors, whose writes are not counted. On a device a comparison of
    values would synchronise: there inference tensors are assumed to be unwritten.
    """

    value: Any
    version: int
    copy: Tensor | None = None

    @classmethod
    def of(cls, value: Any) -> Mark:
        if not isinstance(value, Tensor):
            return cls(value, 0)
        return cls(value, version(value), value.clone() if value.is_inference() and on_host(value) else None)

    @property
    def is_sure(self) -> bool:
        """A write to the tensor would be noticed."""
        return self.version >= 0 or self.copy is not None

    def same(self, other: Any) -> bool:
        """`other` is this very argument: the same memory, not written to since. Plain values are compared."""
        mine = self.value
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return mine is other or (is_plain(mine) and is_plain(other) and type(mine) is type(other) and mine == other)
        if version(other) != self.version or not self._unwritten(other):
            return False
        return mine is other or (
            mine.untyped_storage()._cdata == other.untyped_storage()._cdata
            and mine.storage_offset() == other.storage_offset()
            and outline_of(mine) == outline_of(other)
            and mine.stride() == other.stride()
        )

    def equal(self, other: Any) -> bool:
        """`other` has the same values as this argument had. On a device this synchronises."""
        mine = self.value
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return self.same(other)
        if version(mine) != self.version or outline_of(mine) != outline_of(other) or mine.is_meta:
            return False
        mine = mine if self.copy is None else self.copy
        return torch.equal(mine, other) if on_host(other) else bool((mine == other).all().tolist())

    @property
    def as_it_was(self) -> Tensor | None:
        """The tensor with the values that it had; None where they are lost, or it is no tensor."""
        if not isinstance(self.value, Tensor) or self.value.is_meta:
            return None
        return self.copy if self.copy is not None else self.value if version(self.value) == self.version else None

    def same_or_equal(self, other: Any) -> bool:
        """The same memory, unwritten, or, on the host, equal values."""
        return self.same(other) or (on_host(other) and self.equal(other))

    def _unwritten(self, other: Tensor) -> bool:
        return self.copy is None or (outline_of(self.copy) == outline_of(other) and torch.equal(self.copy, other))


def angle(before: Tensor, after: Tensor) -> Tensor:
    """The largest angle between rows of two tensors of one shape, in radians, 0-d float32; the batch comes first.

    Two rows of zeros have angle 0, a row of zeros and another one a right angle.
    """
    rows = before.shape[0] if before.ndim > 1 else 1
    a, b = (x.detach().reshape(rows, -1).float() for x in (before, after))
    norms = a.norm(dim=1), b.norm(dim=1)
    cosine = (a * b).sum(1) / (norms[0] * norms[1]).clamp_min(torch.finfo(torch.float32).tiny)
    cosine = torch.where((norms[0] == 0) & (norms[1] == 0), torch.ones_like(cosine), cosine)
    return torch.acos(cosine.clamp(-1, 1)).nan_to_num(math.pi).max()
