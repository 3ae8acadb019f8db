"""What one call to the denoiser shows on the host: sample, timestep, conditioning, structure. No device is read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Call:
    """One call, its arguments by name.

    `sample` is the first of a list of samples (Z-Image); `sample_structure` tells of all. `conditioning` are the leaves
    of all other arguments than sample and timestep. `structure` tells shapes, dtypes, devices and nesting of all
    arguments, not their values; `key` tells the values of plain Python leaves as well.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sample: Tensor
    timestep: Tensor | float
    conditioning: tuple[Any, ...]
    structure: Hashable
    key: Hashable
    context: str | None = None
    sample_structure: Hashable = None
    batch: int = 0
    autocast: torch.dtype | None = None

    def run(self, forward: Callable[..., Any]) -> Any:
        """`forward` on the arguments, in lists and dicts of this run's own: a model may empty them (HunyuanDiT)."""
        args, kwargs = self.arguments()
        return forward(*args, **kwargs)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _opened(self.args), _opened(dict(self.kwargs))


def read_call(
    names: tuple[str, ...],
    sample: str,
    timestep: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: str | None = None,
) -> Call | None:
    """The call `forward(*args, **kwargs)`, `names` being forward's parameters; None without a sample or a timestep."""
    given = dict(zip(names, args))
    given.update(kwargs)
    x, t = given.pop(sample, None), given.pop(timestep, None)
    samples = [x] if isinstance(x, Tensor) else list(x) if isinstance(x, (list, tuple)) else []
    if not (samples and all(isinstance(s, Tensor) and s.ndim for s in samples) and isinstance(t, (Tensor, int, float))):
        return None
    outlines = tuple(map(outline, samples))
    leaves, shape, values = [], [], []
    for name in sorted(given):
        parts, spec = _flat(given[name])
        leaves += parts
        shape.append((name, spec, tuple(outline(leaf) for leaf in parts)))
        values += [leaf for leaf in parts if not isinstance(leaf, Tensor)]
    structure = (outlines, outline(t), tuple(shape))
    device = samples[0].device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    autocast = torch.get_autocast_dtype(device) if casts else None
    ambient = autocast, torch.is_inference_mode_enabled()
    key = (structure, tuple(v if _plain(v) else id(v) for v in values), ambient)
    batch = len(x) if isinstance(x, (list, tuple)) else x.shape[0]
    return Call(args, kwargs, samples[0], t, tuple(leaves), structure, key, context, outlines, batch, autocast)


def _opened(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_opened, value))
    return {key: _opened(item) for key, item in value.items()} if type(value) is dict else value


def _flat(value: Any) -> tuple[list[Any], Hashable]:
    if value is None or isinstance(value, (Tensor, bool, int, float, str)):
        return [value], None
    leaves, spec = pytree.tree_flatten(value)
    return leaves, spec


def outline(value: Any) -> Hashable:
    """Shape, dtype and device of a tensor; the type of anything else."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    return type(value).__qualname__


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))


def on_host(value: Any) -> bool:
    """Reading `value` synchronises with no device."""
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def version(x: Tensor) -> int:
    """The count of in-place writes to `x`; inference tensors keep none."""
    return -1 if x.is_inference() else x._version


def versions(call: Call) -> list[int]:
    """The counts of in-place writes to the tensors among the arguments."""
    leaves = pytree.tree_leaves((call.args, dict(call.kwargs)))
    return [version(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


WRITES = "the forward writes to its arguments, so that no second run could prove the first"


@dataclass(frozen=True, eq=False)
class Mark:
    """An argument as it was at one call. It holds the tensor, so that its memory is not given to another one.

    `copy` stands in for the version where writes are not counted; on a device, where to compare is to synchronise,
    inference tensors are taken for unwritten.
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
        """A write would be seen."""
        return self.version >= 0 or self.copy is not None

    def same(self, other: Any) -> bool:
        """`other` is this very argument: the same memory, not written to since. Plain values are compared."""
        mine = self.value
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return mine is other or (_plain(mine) and _plain(other) and type(mine) is type(other) and mine == other)
        if version(other) != self.version or not self._unwritten(other):
            return False
        return mine is other or (
            mine.untyped_storage()._cdata == other.untyped_storage()._cdata
            and mine.storage_offset() == other.storage_offset()
            and outline(mine) == outline(other)
            and mine.stride() == other.stride()
        )

    def equal(self, other: Any) -> bool:
        """`other` has the same values as this argument had. On a device this synchronises."""
        mine = self.value
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return self.same(other)
        if version(mine) != self.version or outline(mine) != outline(other) or mine.is_meta:
            return False
        return torch.equal(mine if self.copy is None else self.copy, other)

    def _unwritten(self, other: Tensor) -> bool:
        return self.copy is None or (outline(self.copy) == outline(other) and torch.equal(self.copy, other))
