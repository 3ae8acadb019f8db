"""An argument as it was at one call, to be compared with another one later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.blocks import memory_of, on_host, outline_of, version

IN_NUMPY = (torch.float16, torch.float32, torch.float64)
MOST = 3  # values along one dimension that are looked at
LEAST_NUMBERS = 8  # of a token, without which it has no direction


def is_plain(value: Any) -> bool:
    """A Python value that `==` compares fully."""
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))


@dataclass(frozen=True, eq=False)
class Mark:
    """An argument as it was at one call. It holds the tensor, so that its memory is not given to another one.

    `copy` stands in for the version of inference tensors, whose writes are not counted. `some` of the values tell of
    writes that no version counts, through `.data` or a view in NumPy. On a device a comparison of values would
    synchronise: there such writes go unnoticed, and inference tensors are assumed to be unwritten.
    """

    value: Any
    version: int
    copy: Tensor | None = None
    some: bytes | None = None

    @classmethod
    def of(cls, value: Any) -> Mark:
        if not isinstance(value, Tensor):
            return cls(value, 0)
        copy = value.clone() if value.is_inference() and on_host(value) else None
        return cls(value, version(value), copy, None if copy is not None else _some_of(value))

    @classmethod
    def now(cls, value: Any) -> Mark:
        """A mark as it is; that of anything else."""
        return value if isinstance(value, cls) else cls.of(value)

    @property
    def is_sure(self) -> bool:
        """A write to the tensor would be noticed."""
        return self.version >= 0 or self.copy is not None

    def same(self, other: Any) -> bool:
        """`other`, or its mark, is this very argument: the same memory, unwritten since. Plain values are compared."""
        now = Mark.now(other)
        mine, theirs = self.value, now.value
        if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
            plain = is_plain(mine) and is_plain(theirs) and type(mine) is type(theirs)
            return mine is theirs or (plain and mine == theirs)
        if now.version != self.version or not self._unwritten(now):
            return False
        return mine is theirs or (
            memory_of(mine) == memory_of(theirs)
            and mine.storage_offset() == theirs.storage_offset()
            and outline_of(mine) == outline_of(theirs)
            and mine.stride() == theirs.stride()
        )

    def equal(self, other: Any) -> bool:
        """`other`, or its mark, has the same values as this argument had. On a device this synchronises."""
        mine, other = self.value, other.value if isinstance(other, Mark) else other
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return self.same(other)
        before = self.as_it_was
        if before is None or outline_of(before) != outline_of(other):
            return False
        return torch.equal(before, other) if on_host(other) else bool((before == other).all().tolist())

    @property
    def as_it_was(self) -> Tensor | None:
        """The tensor with the values that it had; None where they are lost, or it is no tensor."""
        mine = self.value
        if not isinstance(mine, Tensor) or mine.is_meta or version(mine) != self.version:
            return None
        if self.copy is not None:
            return self.copy
        return mine if self.some is None or self.some == _some_of(mine) else None

    def same_or_equal(self, other: Any) -> bool:
        """The same memory, unwritten, or, on the host, equal values."""
        now = Mark.now(other)
        return self.same(now) or (on_host(now.value) and self.equal(now))

    def _unwritten(self, now: Mark) -> bool:
        if self.copy is None:
            return self.some is None or self.some == now.some
        return outline_of(self.copy) == outline_of(now.value) and torch.equal(self.copy, now.value)


def _some_of(x: Tensor) -> bytes | None:
    """Some of the values, at most 3 along each dimension, spread over it; None where that would cost a look."""
    if type(x) not in (Tensor, nn.Parameter) or not on_host(x) or x.layout is not torch.strided or x.is_quantized:
        return None
    if x.dtype.is_floating_point and x.dtype not in IN_NUMPY:
        x = x.detach().view(torch.uint8 if x.element_size() == 1 else torch.int16)
    return x.numpy(force=True)[_spread(x.shape)].tobytes()


@lru_cache(maxsize=256)
def _spread(shape: torch.Size) -> tuple[slice, ...]:
    return tuple(slice(None, None, -(-size // MOST) or 1) for size in shape)


def angle(before: Tensor, after: Tensor) -> Tensor:
    """The largest angle between images of two tensors of one shape, in radians, 0-d float32; the batch comes first.

    Of (images, tokens, numbers) each token counts alike: a text encoder gives the first one a hundred times the norm of
    the others, whatever the text. Two tokens of zeros have angle 0, one of zeros and another one a right angle.
    """
    if not before.numel():
        return torch.zeros((), device=after.device)
    images = before.shape[0] if before.ndim > 1 else 1
    tokens = before.shape[1] if before.ndim == 3 and before.shape[2] >= LEAST_NUMBERS else 1
    a, b = (x.detach().reshape(images, tokens, -1).float() for x in (before, after))
    norms = a.norm(dim=2), b.norm(dim=2)
    cosine = (a * b).sum(2) / (norms[0] * norms[1]).clamp_min(torch.finfo(torch.float32).tiny)
    cosine = torch.where((norms[0] == 0) & (norms[1] == 0), torch.ones_like(cosine), cosine).mean(1)
    return torch.acos(cosine.clamp(-1, 1)).nan_to_num(math.pi).max()
