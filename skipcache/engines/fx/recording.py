"""The first full step of a signature: it runs as ever, and what its leaves return is written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.engines.fx.skeleton import Skeleton


class Untraceable(RuntimeError):
    """No graph of this forward would be right for every call like this one. The message says why."""


@dataclass(frozen=True)
class Spec:
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor) -> Spec:
        return cls(tuple(x.shape), tuple(x.stride()), x.dtype, x.device)

    def blank(self) -> Tensor:
        """An uninitialised tensor like it; fake under a FakeTensorMode."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclass
class Recording:
    """What one eager step showed: its output, and what every leaf call returned, by path.

    `overwritten`: the blocks at the ends of head and deep part whose features the rest of the step wrote to.
    """

    output: Any = None
    returned: dict[str, list[tuple[list[Any], Any]]] = field(default_factory=lambda: defaultdict(list))
    overwritten: list[str] = field(default_factory=list)


def record(function: Any, model: nn.Module, blocks: Sequence[str], deep: range, args: Any, kwargs: Any) -> Recording:
    """Run `function(model, *args, **kwargs)`, noting leaf calls; calls within a leaf are the leaf's own business.

    Watched is where H and D are to be read, `deep` being the indices of the deep blocks among `blocks`.
    """
    recording = Recording()
    seen: list[tuple[str, Tensor, Tensor]] = []
    leaving = {blocks[deep.stop - 1], blocks[deep.start - 1] if deep.start else None}
    entering = None if deep.start else blocks[0]

    def watch(path: str, *held: Any) -> None:
        seen.extend((path, x, x.clone()) for x in pytree.tree_leaves(held) if isinstance(x, Tensor))

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        if path == entering:
            watch(path, args, kwargs)
        output = model.get_submodule(path)(*args, **kwargs)
        leaves, spec = pytree.tree_flatten(output)
        recording.returned[path].append(([Spec.of(x) if isinstance(x, Tensor) else x for x in leaves], spec))
        if path in leaving:
            watch(path, output)
        return output

    skeleton = Skeleton(model, blocks, answer)
    recording.output = function(skeleton.root, *args, **kwargs)
    skeleton.hand_over()
    recording.overwritten = sorted({path for path, x, copy in seen if not _equal(x, copy)})
    return recording


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
