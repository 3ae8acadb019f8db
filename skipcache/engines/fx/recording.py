"""The first full step of a signature: it runs as usual, and what its leaves return is recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, Outside, Streams, equal_values
from skipcache.branches import SKIPS, branches_of
from skipcache.engines.between import same_modes
from skipcache.engines.fx.nesting import tensors_in
from skipcache.engines.fx.skeleton import Skeleton
from skipcache.engines.tape import Differs, Made, Tape, are_written


@dataclass
class Recording:
    """What one eager step showed: its output, and what every leaf call returned, by path.

    Attributes:
        overwritten: the blocks at the ends of head and deep part whose features the rest of the step wrote to.
        counted: the numbers outside of the model that changed while the deep part ran.
        given: what the first deep block was given.
        H, D: the last block of the head that was called and what it returned, and the last deep one.
        recorder: answers for the leaves in a proof.
    """

    output: Any = None
    returned: dict[str, list[tuple[list[Any], Any]]] = field(default_factory=lambda: defaultdict(list))
    overwritten: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    given: tuple[Any, Any] | None = None
    H: tuple[str, Any] | None = None
    D: tuple[str, Any] | None = None
    recorder: Any = None


class Recorder:
    """Stands behind the leaves of a stand-in for `model`, on the step and in its proof."""

    def __init__(self, model: nn.Module, blocks: Sequence[str], deep: range, outside: Outside | None, whole: bool):
        self.model, self.index, self.deep = model, {path: i for i, path in enumerate(blocks)}, deep
        self.whole, self.outside, self.branches = whole, outside, branches_of(model)
        self.found, self.tape = Recording(recorder=self), Tape()
        self.skeleton = Skeleton(model, blocks, self)
        self._ends: dict[str, tuple[str, Any, list[Made]]] = {}
        self._entered: list[tuple[str, Tensor, Tensor]] = []
        self._proved: dict[str, Streams] | None = None
        self._before: Any = None
        self._after: Any = None

    def __call__(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self._proved is not None:
            return self._answer(self._proved, path, args, kwargs)
        tape, index = self.tape, self.index.get(path, -1)
        deep = index in self.deep
        tape.pause()
        if deep and self.found.given is None:
            self._enters(path, args, kwargs)
        call = None if deep and not self.whole else tape.enter(args, kwargs)
        output = self.model.get_submodule(path)(*args, **kwargs)
        if deep and self.outside is not None:
            self._after = self.outside.values()
        leaves, spec = pytree.tree_flatten(output)
        returned = [Outline.exactly(x) if isinstance(x, Tensor) else x for x in leaves]
        self.found.returned[path].append((returned, spec))
        if call is None:
            made = tape.pass_by(output)
        else:
            ends = index in (self.deep.start - 1, self.deep.stop - 1) and index >= 0
            made = tape.leave(path, call, output, hold=ends or self.branches is not None)
        if deep or 0 <= index < self.deep.start:
            self._ends["D" if deep else "H"] = path, output, made
        tape.resume()
        return output

    def _enters(self, path: str, args: Any, kwargs: Any) -> None:
        self.found.given = args, kwargs
        if self.outside is not None:
            self._before = self.outside.values()
        if not self.deep.start:
            given = (x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor))
            self._entered.extend((path, x, x.clone()) for x in given)

    def run(self, function: Any, args: Any, kwargs: Any) -> Recording:
        found, tape = self.found, self.tape
        with same_modes():
            tape.resume()
            found.output = function(self.skeleton.root, *args, **kwargs)
            tape.pause()
        self.skeleton.hand_over()
        tape.finish(found.output)
        overwritten = {path for path, output, made in self._ends.values() if are_written(output, made)}
        overwritten |= {path for path, x, copy in self._entered if not (x.is_meta or equal_values(x, copy))}
        found.overwritten = sorted(overwritten)
        self._entered = []
        found.H, found.D = ((end[:2] if (end := self._ends.pop(name, None)) else None) for name in "HD")
        if self.outside is not None and self._after is not None:
            found.counted = self.outside.changed(int, self._before, self._after)
        return found

    @contextmanager
    def proving(self) -> Iterator[nn.Module]:
        """The stand-in, whose leaves return what they returned on the step. They raise `Differs`."""
        self.tape.rewind()
        self._proved = {}
        yield self.skeleton.root
        self._proved = None

    def _answer(self, proved: dict[str, Streams], path: str, args: Any, kwargs: Any) -> Any:
        handed_over = kwargs.pop(SKIPS, None) or {}
        output = self.tape.answer(path, args, kwargs)
        skips = None if self.branches is None else self.branches.wire(path, args, kwargs, proved)
        if not _same(skips or {}, handed_over):
            raise Differs(f"{path} is handed another skip than its branch takes")
        proved[path] = tuple(tensors_in(output))
        return output


def _same(ours: Mapping[Any, Tensor], theirs: Mapping[Any, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(equal_values(ours[key], theirs[key]) for key in ours)


def record(
    function: Any,
    model: nn.Module,
    blocks: Sequence[str],
    deep: range,
    args: Any,
    kwargs: Any,
    outside: Outside | None = None,
    whole: bool = False,
) -> Recording:
    """Run `function(model, *args, **kwargs)` and record the calls of leaves. Calls within a leaf are not recorded.

    `deep` are the indices of the deep blocks among `blocks`. The inputs or outputs of the blocks at which H and D are
    read are cloned, to detect in-place writes. `whole`: a proof is to answer for the deep blocks too, so that the
    values that glue between them reads are held.
    """
    return Recorder(model, blocks, deep, outside, whole).run(function, args, kwargs)


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
