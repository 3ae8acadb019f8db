"""What carries a shallow feature to its skip branch: overrides of the blocks' `forward`, and a channel between them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from skipcache.blocks import Override, Streams, alike, arguments_of, equal_values, handed_in, take_apart
from skipcache.stack import Stack

SKIPS = "skipcache_skips"  # the argument by which a graph hands over: {the block's argument: what is fused into it}


class Channel:
    """What taps have put up for the blocks further on, by thread. A copy of the model has one of its own.

    `copies` tells, once a block has run, whether later ones write in place to what it returned. `seen` holds what was
    fused by the input that it was fused into, while autograd keeps that.
    """

    def __init__(self) -> None:
        self.copies: dict[str, bool] = {}
        self.seen = WeakIdKeyDictionary()
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Channel], tuple[()]]:
        return Channel, ()

    @property
    def returned(self) -> dict[str, Streams]:
        return self._held("returned")

    @property
    def copied(self) -> dict[str, Streams]:
        """As it was when it was returned."""
        return self._held("copied")

    def _held(self, name: str) -> dict[str, Streams]:
        return vars(self._local).setdefault(name, {})


class Tap(Override):
    """Stands in for the `forward` of a block whose output is carried on, or only shows the next one's inlets."""

    of_model = True

    def __init__(self, module: nn.Module, channel: Channel, path: str, carries: bool) -> None:
        super().__init__(module)
        self.channel, self.path, self.carries = channel, path, carries

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        in_a_graph = kwargs.pop(SKIPS, None) is not None
        output = self.plain(*args, **kwargs)
        if not in_a_graph and not (torch.is_grad_enabled() and _in_backward()):
            channel, streams = self.channel, take_apart(output)[0]
            channel.returned[self.path] = streams
            if self.carries and channel.copies.get(self.path, True):
                channel.copied[self.path] = tuple(x.clone() for x in streams)
        return output


class Fuse(Override):
    """Stands in for the `forward` of a block into whose input a branch fuses what the block at `source` returned.

    `branch` is where in `branches` the modules are that fuse, one for each stream. `before` is the block that runs
    before this one: its streams show by which arguments this one takes them.
    """

    of_model = True

    def __init__(
        self,
        module: nn.Module,
        channel: Channel,
        stack: Stack,
        branches: nn.Module,
        path: str,
        before: str,
        branch: str,
        source: str,
    ) -> None:
        super().__init__(module)
        self.channel, self.stack, self.branches = channel, stack, branches
        self.path, self.before, self.branch, self.source = path, before, branch, source
        self.inlets: tuple[Hashable, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        skips = kwargs.pop(SKIPS, None)
        if skips is None:
            skips = self._skips(arguments_of(args, kwargs))
        if not skips:
            raise RuntimeError(f"{self.path} is run again, and no skip is known: checkpoint with use_reentrant=False")
        fused = list(args)
        for branch, (key, skip) in zip(self._modules(), skips.items()):
            if isinstance(key, int):
                fused[key] = branch(fused[key], skip)
            else:
                kwargs[key] = branch(kwargs[key], skip)
        return self.plain(*fused, **kwargs)

    def _modules(self) -> list[nn.Module]:
        return list(self.branches.get_submodule(self.branch).children())

    def _skips(self, arguments: Mapping[Hashable, Any]) -> dict[Hashable, Tensor]:
        """What the channel brings; when gradient checkpointing runs the block again, what it brought the first time."""
        if not torch.is_grad_enabled():
            return self._carried(arguments)
        seen = self.channel.seen
        if _in_backward():
            again = (seen[x] for x in arguments.values() if isinstance(x, Tensor) and x in seen)
            held: dict[Hashable, Tensor | None] = next(again, {})
            return {key: arguments[key] if skip is None else skip for key, skip in held.items()}
        skips = self._carried(arguments)
        # A skip may be the input itself, between neighbours: what is held must not hold what it is held by.
        seen[arguments[next(iter(skips))]] = {
            key: None if skip is arguments[key] else skip for key, skip in skips.items()
        }
        return skips

    def _carried(self, arguments: Mapping[Hashable, Any]) -> dict[Hashable, Tensor]:
        """What the channel brings, which is emptied of it; a copy where the blocks between write to it in place."""
        channel = self.channel
        before = channel.returned.pop(self.before, ())
        skips = before if self.before == self.source else channel.returned.pop(self.source, None)
        kept = channel.copied.pop(self.source, None)
        if skips and kept and self.source not in channel.copies:
            channel.copies[self.source] = not all(map(equal_values, skips, kept))
        carried = {self.before: before, self.source: kept if channel.copies.get(self.source) else skips}
        return self.wire(arguments, {path: streams for path, streams in carried.items() if streams})

    def wire(self, arguments: Mapping[Hashable, Any], returned: Mapping[str, Streams]) -> dict[Hashable, Tensor]:
        """By argument, the stream of the source that goes into it, in the layout in which this block works."""
        skips = returned.get(self.source)
        if skips is None:
            raise RuntimeError(
                f"{self.source} has not run before {self.path} in this call, so that there is no skip to fuse; "
                f"blocks must run in the order of the stack, and be checkpointed with use_reentrant=False"
            )
        streams = len(self._modules())
        if len(skips) != streams:
            raise RuntimeError(
                f"{self.source} returns {len(skips)} tensors, but the branches were grafted for "
                f"{streams}; graft with streams={len(skips)}"
            )
        inlets = self._inlets(skips, arguments, returned.get(self.before, ()))
        return {key: self._moved(skip, arguments[key]) for key, skip in zip(inlets, skips)}

    def _inlets(self, skips: Streams, arguments: Mapping[Hashable, Any], before: Streams) -> tuple[Hashable, ...]:
        """Sure where the block before hands its streams straight in; else those seen then, or what looks alike."""
        seen = handed_in(before, arguments) if len(before) == len(skips) else ()
        if seen and None not in seen:
            self.inlets = seen
        elif not self.inlets and len(skips) == 1:
            return (next(key for key, x in arguments.items() if isinstance(x, Tensor)),)
        found = self.inlets or alike(skips, arguments)
        if None in found or not all(key in arguments for key in found):
            raise RuntimeError(f"{self.path} does not take by its arguments all that {self.source} returns")
        return found

    def _moved(self, skip: Tensor, x: Tensor) -> Tensor:
        """`skip` from the layout of its block to that of this one, whose input is `x`."""
        stack = self.stack
        if not stack.transposed:
            return skip
        batch = x.shape[0] // skip.shape[1]  # x is (batch * frames, tokens, D), skip (batch * tokens, frames, D)
        return stack.raw(self.path, stack.canonical(self.source, skip, batch), batch)


def _in_backward() -> bool:
    """Gradient checkpointing is running a block again."""
    return torch._C._current_graph_task_id() != -1
