"""The outline of a tensor: all of it but its values. The one spelling of shape, dtype and device."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Outline(NamedTuple):
    """Shape, dtype and device of a tensor; strides too where it was taken by `exactly`."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    stride: tuple[int, ...] | None = None

    @classmethod
    def of(cls, x: Tensor) -> Outline:
        return cls(x.shape, x.dtype, x.device)

    @classmethod
    def exactly(cls, x: Tensor) -> Outline:
        return cls(x.shape, x.dtype, x.device, x.stride())

    def is_of(self, x: Tensor) -> bool:
        """`x` has this shape, dtype and device."""
        return x.shape == self.shape and x.dtype == self.dtype and x.device == self.device

    def blank(self) -> Tensor:
        """An uninitialised tensor like it; fake under a FakeTensorMode."""
        if self.stride is None:
            return torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


def outline_of(value: Any) -> Hashable:
    """The `Outline` of a tensor; the type's name of anything else."""
    return Outline.of(value) if isinstance(value, Tensor) else type(value).__qualname__


def equal_values(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype and values; NaN equals NaN. Tensors on the meta device have no values to differ in."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.is_meta or b.is_meta:
        return a.is_meta and b.is_meta
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def version(x: Tensor) -> int:
    """The count of in-place writes to `x`; inference tensors keep none, which is -1."""
    return -1 if x.is_inference() else x._version


def on_host(value: Any) -> bool:
    """True where reading `value` synchronises with no device."""
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def memory_of(x: Tensor) -> int | None:
    """What tells whether two tensors lie in one memory; None where there is none to look at (sparse tensors)."""
    try:
        return x.untyped_storage()._cdata
    except NotImplementedError:
        return None
