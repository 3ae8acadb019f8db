"""An argument as it was at one call, to be compared with another one later."""

from __future__ import annotations

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
        return torch.equal(mine if self.copy is None else self.copy, other)

    def _unwritten(self, other: Tensor) -> bool:
        return self.copy is None or (outline_of(self.copy) == outline_of(other) and torch.equal(self.copy, other))
