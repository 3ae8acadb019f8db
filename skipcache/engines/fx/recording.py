"""The first full step of a signature: it runs as usual, and what its leaves return is recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, equal_values
from skipcache.engines.fx.skeleton import Skeleton


@dataclass
class Recording:
    """What one eager step showed: its output, and what every leaf call returned, by path.

    `overwritten`: the blocks at the ends of head and deep part whose features the rest of the step wrote to.
    """

    output: Any = None
    returned: dict[str, list[tuple[list[Any], Any]]] = field(default_factory=lambda: defaultdict(list))
    overwritten: list[str] = field(default_factory=list)


def record(function: Any, model: nn.Module, blocks: Sequence[str], deep: range, args: Any, kwargs: Any) -> Recording:
    """Run `function(model, *args, **kwargs)` and record the calls of leaves. Calls within a leaf are not recorded.

    `deep` are the indices of the deep blocks among `blocks`. The inputs or outputs of the blocks at which H and D are
    read are cloned, to detect in-place writes.
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
        recording.returned[path].append(([Outline.exactly(x) if isinstance(x, Tensor) else x for x in leaves], spec))
        if path in leaving:
            watch(path, output)
        return output

    skeleton = Skeleton(model, blocks, answer)
    recording.output = function(skeleton.root, *args, **kwargs)
    skeleton.hand_over()
    recording.overwritten = sorted({path for path, x, copy in seen if not (x.is_meta or equal_values(x, copy))})
    return recording


def follow(
    function: Any,
    model: nn.Module,
    blocks: Sequence[str],
    entering: str,
    leaving: Collection[str],
    args: Any,
    kwargs: Any,
) -> tuple[Any, dict[str, list[Any]]]:
    """Run `function(model, *args, **kwargs)`, all of its Python included.

    Returns its output, and for some blocks what their calls were given (`entering`), or returned (`leaving`).
    """
    seen: dict[str, list[Any]] = defaultdict(list)

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        output = model.get_submodule(path)(*args, **kwargs)
        if path in leaving:
            seen[path].append(output)
        if path == entering:
            seen[""].append((args, kwargs))
        return output

    skeleton = Skeleton(model, blocks, answer, leaves={entering, *leaving})
    try:
        return function(skeleton.root, *args, **kwargs), seen
    finally:
        skeleton.hand_over()
