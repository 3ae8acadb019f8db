"""Who reads what the deep blocks return: nobody may but the next deep block, and, of the last one, everybody.

This is the structural half of the hook engine's proof. A trial shows that one output is equal, at one point. A
deep feature that is read late in the trajectory, or by a long skip whose weight is still zero, passes it. So on every
step, full or cached, a torch function mode follows what the deep blocks return through the code between the blocks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from skipcache.blocks import Outline, Streams, arguments_of, rebuild, take_apart, tensors_of
from skipcache.engines.hooks.runs import Run, Unwired
from skipcache.engines.hooks.wiring import Wiring, outlines_of

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine
    from skipcache.engines.hooks.overrides import BlockCall

# These look at a tensor's outline and not at its values.
_ASKED = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device"}
)
_TESTED = frozenset(
    {"is_contiguous", "is_floating_point", "is_complex", "is_inference", "is_same_size", "type", "__len__"}
)
_LIKE = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"}
)
_OUTLINES = _ASKED | _TESTED | _LIKE


class Watch(TorchFunctionMode):
    """Follows values that were made of deep blocks, by the index of the earliest block that each was made of."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._last = -1  # the deep block that was called last
        self._on = self._over = False
        self.read: str | None = None

    def origin(self, x: Any) -> int | None:
        """The earliest deep block that `x` was made of; None where it was made of none."""
        found = self._made.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def follow(self, x: Tensor, index: int) -> None:
        self._made[id(x)] = weakref.ref(x), index

    def enter_deep(self, index: int) -> None:
        """The deep block at `index` is called: what was read before it was read on the way to it."""
        self._last, self.read, self._over = index, None, False

    @property
    def is_over(self) -> bool:
        """Nothing is left that was made of a deep block before the last one, so that nobody can read it any more."""
        if not self._over:
            self._over = all(index >= self._last or made() is None for made, index in self._made.values())
        return self._over

    def end_soon(self) -> None:
        """The last deep block was called: the mode ends as soon as nothing is left that was made of those before it."""
        for key, (made, index) in list(self._made.items()):
            if index < self._last and (x := made()) is not None:
                self._made[key] = weakref.ref(x, self._gone), index

    def _gone(self, _: weakref.ref[Tensor]) -> None:
        if self.is_over:
            self.pause()

    def forget(self) -> None:
        self._made.clear()

    def check(self, values: Iterable[Any], reader: str) -> int | None:
        """The earliest deep block that `values` were made of. It is noted where that is not the last one."""
        earliest = self._earliest(values)
        if earliest is not None and earliest < self._last and self.read is None:
            self.read = reader
        return earliest

    def _earliest(self, values: Iterable[Any]) -> int | None:
        """By identity alone, since this runs for each operation: asking what is a tensor would cost more."""
        earliest = None
        for x in values:
            kind = type(x)
            if kind is tuple or kind is list or kind is dict:
                origin = self._earliest(x.values() if kind is dict else x)
            else:
                origin = self.origin(x) if id(x) in self._made else None
            if origin is not None and (earliest is None or origin < earliest):
                earliest = origin
        return earliest

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _OUTLINES or (name == "__get__" and not isinstance(value, Tensor)):
            return value
        origin = self.check((*args, kwargs) if kwargs else args, name)
        if origin is not None:
            for x in _tensors(args[0] if name == "__setitem__" else value):
                self.follow(x, origin)
        return value

    # The mode is on in the code between the blocks alone. Modes are a stack, on which the forward may put its own.

    # This happens around each block, so that torch's own calls, which are cheap, take the place of `with`.

    def resume(self) -> None:
        if not (self._on or self._over):
            torch._C._push_on_torch_function_stack(self)
            self._on = True

    def pause(self) -> None:
        if self._on:
            height = torch._C._len_torch_function_stack()
            if height and torch._C._get_function_stack_at(height - 1) is self:
                torch._C._pop_torch_function_stack()
                self._on = False
            else:
                self._on = self in _get_current_function_mode_stack()


class Watched:
    """A run of the model that is compared with the wiring that was proved, and what its deep blocks return followed.

    Args:
        known: the wiring; None on the step that shows it.
        caches: blocks hand through in this run; what differs ends it, by `Unwired`.
    """

    def __init__(self, run: Run, engine: HookEngine, known: Wiring | None = None, caches: bool = False) -> None:
        self.run, self.known, self.caches = run, known, caches
        self.engine, self.deep, self.paths = engine, engine.deep, engine.stack.blocks
        self._ends = () if known is None else (known.shallow, known.last)
        self.watch = Watch()
        self._through = known.through if known is not None and caches else {}
        self._handed: Streams = ()  # by the block that was called last, where it was skipped
        self.called: list[int] = []
        self.ran = 0
        self.trouble: str | None = None

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, watch, run = block.index, self.watch, self.run
        if self._handed and self._goes_through(index, args, kwargs):
            return self._hand_through(index)
        watch.pause()
        if not self.called and self.known is not None:
            seen = outlines_of(arguments_of(args, kwargs))
            self._expect(seen == self.known.entry, f"{self.paths[index]} is given other tensors than it was")
        self.called.append(index)
        deep, ran = index in self.deep, run.ran
        if deep:
            watch.enter_deep(index)
        elif not (index >= self.deep.stop and watch.is_over):
            watch.check((args, kwargs), self.paths[index])
        output = run.block(block, args, kwargs)
        self.ran = run.ran
        skipped = ran == run.ran
        if skipped or deep:
            output = self._followed(output, index, None if skipped else {*map(id, args), *map(id, kwargs.values())})
        self._handed = take_apart(output)[0] if skipped and deep and self._through else ()
        if index in self._ends:
            self._compare(index, output)
        if index == (self.deep.stop - 1 if self.known is None else self.known.last):
            watch.end_soon()
        if skipped or index >= self.deep.start:
            watch.resume()
        return output

    def _goes_through(self, index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """The block is skipped, and given what the one before it handed out: there is nothing to look at."""
        if self._through.get(index) != self.called[-1] or self.known is None or not self.engine.attached:
            return False
        keys = self.known.outlets[index].inlets
        given = (args[key] if isinstance(key, int) and key < len(args) else kwargs.get(str(key)) for key in keys)
        return len(keys) == len(self._handed) and all(map(is_, given, self._handed))

    def _hand_through(self, index: int) -> Any:
        assert self.known is not None
        self.called.append(index)
        self.watch.enter_deep(index)
        for x in self._handed:
            self.watch.follow(x, index)
        self.watch.resume()
        return rebuild(self.known.outlets[index].shape, list(self._handed))

    def finish(self, output: Any) -> None:
        """The forward has returned `output`."""
        self.watch.pause()
        if not self.watch.is_over:
            self.watch.check(list(tensors_of(output)), "the caller")
        self.watch.forget()
        if self.known is not None and self.called:
            self._expect(self.called == list(self.known.outlets), "the forward calls other blocks than it did")

    @property
    def read(self) -> str | None:
        """Who has read a deep block that nobody may read."""
        return self.watch.read

    def _expect(self, holds: bool, trouble: str) -> None:
        if not holds and self.trouble is None:
            self.trouble = trouble
            if self.caches:
                raise Unwired(trouble)

    def _compare(self, index: int, output: Any) -> None:
        """H and D must look as they did, else a D-hat would be made of features of two kinds."""
        looks = tuple(map(Outline.of, take_apart(output)[0]))
        same = self.known is not None and looks == self.known.outlets[index].outlines
        self._expect(same, f"{self.paths[index]} returns other tensors than it did")

    def _followed(self, output: Any, index: int, given: set[int] | None) -> Any:
        """`output`, followed. `given`: the ids of what a block that ran was given; None for one that was skipped.

        What a skipped block hands through may be a tensor of the head, so that an alias of it goes on. What a block
        returns as it was given is not its own.
        """
        watch = self.watch
        streams, shape = take_apart(output)
        if given is not None:
            streams = tuple(x for x in streams if id(x) not in given or watch.origin(x) is not None)
        elif None in map(watch.origin, streams):
            streams = tuple(x.detach() if watch.origin(x) is None else x for x in streams)
            output = rebuild(shape, list(streams))
        for x in streams:
            watch.follow(x, index)
        return output


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
