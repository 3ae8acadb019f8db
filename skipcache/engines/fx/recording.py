"""The first full step of a signature: it runs as usual, and what its leaves return is recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, equal_values, version
from skipcache.engines.answers import Answers
from skipcache.engines.fx.skeleton import Skeleton


@dataclass
class Recording:
    """What one eager step showed: its output, and what every leaf call returned, by path.

    Attributes:
        overwritten: the blocks at the ends of head and deep part whose features the rest of the step wrote to.
        given: what the first deep block was given.
        H, D: what the last block of the head that was called returned, and the last deep one.
    """

    output: Any = None
    returned: dict[str, list[tuple[list[Any], Any]]] = field(default_factory=lambda: defaultdict(list))
    overwritten: list[str] = field(default_factory=list)
    given: tuple[Any, Any] = ((), {})
    H: Any = None
    D: Any = None


def record(
    function: Any,
    model: nn.Module,
    blocks: Sequence[str],
    deep: range,
    args: Any,
    kwargs: Any,
    answers: Answers | None = None,
    whole: bool = False,
) -> Recording:
    """Run `function(model, *args, **kwargs)` and record the calls of leaves. Calls within a leaf are not recorded.

    `deep` are the indices of the deep blocks among `blocks`. What H and D are read from is watched for in-place writes.
    `answers` notes what can answer for the blocks of head and tail afterwards; with `whole`, for all blocks.
    """
    recording = Recording()
    watched = Watched()
    index = {path: i for i, path in enumerate(blocks)}
    ends = deep.start - 1, deep.stop - 1

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        module, at = model.get_submodule(path), index.get(path, -1)
        first = at == deep.start
        if first:
            recording.given = args, kwargs
            watched.enter(path, args, kwargs, not deep.start)
        noting = answers if at >= 0 else None
        call = noting.enter(path, args, kwargs) if noting is not None and (whole or at not in deep) else None
        output = module(*args, **kwargs)
        if first:
            watched.leave()
        if noting is not None and call is not None:
            noting.leave(path, call, output, hold=at in ends)
        elif noting is not None:
            noting.passes(path, output)
        leaves, spec = pytree.tree_flatten(output)
        recording.returned[path].append(([Outline.exactly(x) if isinstance(x, Tensor) else x for x in leaves], spec))
        if at in deep:
            recording.D = output
        elif 0 <= at < deep.start:
            recording.H = output
        if at in ends and at >= 0:
            watched.watch(path, output)
        return output

    skeleton = Skeleton(model, blocks, answer)
    recording.output = function(skeleton.root, *args, **kwargs)
    skeleton.hand_over()
    recording.overwritten = watched.written()
    return recording


class Watched:
    """Tensors that nobody may write to, by the path of the block that they belong to.

    torch counts writes; of tensors that have no count, as in inference mode, copies are compared.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, Tensor, int | Tensor]] = []
        self._given: list[tuple[str, Tensor, Tensor]] = []
        self._written: set[str] = set()

    def watch(self, path: str, *held: Any) -> None:
        tensors = [x for x in pytree.tree_leaves(held) if isinstance(x, Tensor) and not x.is_meta]
        self._seen.extend((path, x, x.clone() if version(x) < 0 else version(x)) for x in tensors)

    def enter(self, path: str, args: Any, kwargs: Any, stays: bool) -> None:
        """The first deep block is called. `stays`: what it is given is read as H."""
        if stays:
            self.watch(path, args, kwargs)
        owners = {id(x): owner for owner, x, _ in self._seen}
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor) and id(x) in owners]
        self._given = [(owners[id(x)], x, x.clone()) for x in given]

    def leave(self) -> None:
        """It has returned: it may have written in a way that torch does not count."""
        self._written |= {path for path, x, copy in self._given if not equal_values(x, copy)}
        self._given = []

    def written(self) -> list[str]:
        changed = (
            (path, not equal_values(x, seen) if isinstance(seen, Tensor) else version(x) != seen)
            for path, x, seen in self._seen
        )
        return sorted(self._written | {path for path, is_written in changed if is_written})


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
