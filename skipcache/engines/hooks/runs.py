"""What a block does in one step: it computes and is watched, or hands through."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from skipcache.blocks import (
    Outline,
    Streams,
    alike,
    arguments_of,
    as_entering,
    handed_in,
    rebuild,
    take_apart,
    version,
)
from skipcache.engines import beside
from skipcache.engines.answers import Answers
from skipcache.engines.hooks.wiring import Outlet, Wiring, outlines_of
from skipcache.predictors import Prediction

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine
    from skipcache.engines.hooks.overrides import BlockCall

TAKEN_OFF = "the model is being restored on another thread"


class Unwired(RuntimeError):
    """What the forward does inside differs from the full step that was proved. The message says how."""


class Run(Protocol):
    """One step of the model. `ran` counts the blocks that computed."""

    ran: int

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the call of `block` returns."""


class FullRun:
    """One full step of a known wiring: all blocks compute; H and D are kept."""

    def __init__(self, engine: HookEngine, batch: int, known: Wiring) -> None:
        self.engine, self.batch, self.known = engine, batch, known
        self.H: Streams | None = None
        self.D: Streams = ()
        self.ran = 0

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, known = block.index, self.known
        if index == known.first and not self.engine.deep.start:
            entering = arguments_of(*as_entering(block.module, args, kwargs))
            self.H = self.engine.entering(index, known, entering, self.batch)
        output = block.plain(*args, **kwargs)
        self.ran += 1
        if index == known.shallow:
            self.H = self.engine.keep(index, take_apart(output)[0], self.batch, known.copies)
        elif index == known.last:
            self.D = self.engine.keep(index, take_apart(output)[0], self.batch, known.copies)
        return output


class WiringObserver:
    """The first full step of a signature: all blocks compute; H, D and the wiring are seen.

    `answers` notes what can answer for the blocks of head and tail afterwards.
    """

    def __init__(self, engine: HookEngine, batch: int, answers: Answers | None = None) -> None:
        self.engine, self.batch, self.answers = engine, batch, answers
        self.H: Streams | None = None
        self.D: Streams = ()
        self.ran = 0
        self._called: list[int] = []
        self._shape: Any = None
        self._outlets: dict[int, Outlet] = {}
        self._inlets: dict[type, tuple[Hashable, ...]] = {}
        self._handed: tuple[type, Streams] = (type(None), ())
        self._entry: dict[Hashable, Any] = {}
        self._first: dict[Hashable, Outline] = {}
        self._versions: dict[str, list[tuple[Tensor, int]]] = {}

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, kind, deep = block.index, type(block.module), self.engine.deep
        arguments = arguments_of(*as_entering(block.module, args, kwargs))
        self._learn_inlets(kind, arguments)
        if index in deep and not any(i in deep for i in self._called):
            self._entry = {key: x for key, x in arguments.items() if isinstance(x, Tensor)}
            self._watch("entry", tuple(self._entry.values()))
        self._first = self._first if self._called else outlines_of(arguments_of(args, kwargs))
        self._called.append(index)
        output = self._noted(block, args, kwargs)
        self.ran += 1
        streams, shape = take_apart(output)
        self._outlets[index] = Outlet(shape, tuple(map(Outline.of, streams)), alike(streams, arguments))
        self._handed = (kind, streams)
        if index < deep.start:
            self._watch("H", streams)
            self.H = self.engine.keep(index, streams, self.batch)
        elif index in deep:
            self._watch("D", streams)
            self.D, self._shape = self.engine.keep(index, streams, self.batch), shape
        return output

    def _noted(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, answers, deep = block.index, self.answers, self.engine.deep
        if answers is None:
            return block.plain(*args, **kwargs)
        path = self.engine.stack.blocks[index]
        if index in deep:
            output = block.plain(*args, **kwargs)
            answers.passes(path, output)
        else:
            call = answers.enter(path, args, kwargs)
            output = block.plain(*args, **kwargs)
            answers.leave(path, call, output, hold=index == deep.start - 1)
        return output

    def _learn_inlets(self, kind: type, arguments: Mapping[Hashable, Any]) -> None:
        """Where the streams of the block before come in, by identity; sure between two blocks of one class."""
        before, streams = self._handed
        inlets = handed_in(streams, arguments)
        if before is kind and streams and None not in inlets:
            self._inlets[kind] = inlets

    def _wired(self) -> dict[int, Outlet]:
        """The outlets, with inlets that were seen on any block of the class in the place of those that were guessed."""
        wired = {}
        for index, outlet in self._outlets.items():
            seen = self._inlets.get(type(self.engine.blocks[index].module), ())
            wired[index] = replace(outlet, inlets=seen) if len(seen) == len(outlet.outlines) else outlet
        return wired

    def _watch(self, what: str, streams: Streams) -> None:
        self._versions[what] = [(x, version(x)) for x in streams]

    def wiring(self) -> Wiring:
        """What this step showed; with a refusal where no cached step can follow."""
        deep = [i for i in self._called if i in self.engine.deep]
        head = [i for i in self._called if i < self.engine.deep.start]
        ordered = all(i < j for i, j in zip(self._called, self._called[1:]))
        if not deep or not ordered or (self.engine.deep.start and not head):
            names = ", ".join(self.engine.stack.blocks[i] for i in self._called) or "none"
            return Wiring(refusal=f"the blocks did not run once each in the order of the stack; they ran: {names}")
        if not self.D:
            return Wiring(
                refusal=f"{self.engine.stack.blocks[deep[-1]]} returns neither a tensor nor a tuple of tensors"
            )
        copies = any(version(x) != seen for watched in self._versions.values() for x, seen in watched)
        shapes = tuple(tuple(x.shape) for x in self.D)
        ends = max(head, default=-1), deep[0], deep[-1]
        wiring = Wiring(*ends, self._shape, self._wired(), self._first, shapes, copies)
        if not self.engine.deep.start:
            self.H = self.engine.entering(deep[0], wiring, self._entry, self.batch)
        return wiring


class CachedRun:
    """One cached step: head and tail compute, the deep blocks hand through, and the last of them hands out D-hat.

    Where nothing reads the head, it hands through as well.
    """

    def __init__(self, engine: HookEngine, batch: int, wiring: Wiring, prediction: Prediction) -> None:
        self.engine, self.batch, self.wiring, self.prediction = engine, batch, wiring, prediction
        self.H: Streams | None = None
        self.ran = 0
        self._idle = range(engine.deep.start if wiring.idle_head and not prediction.reads_H else 0)

    def compute(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return block.plain(*args, **kwargs)

    def block(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, stack, wiring = block.index, self.engine.stack, self.wiring
        if not self.engine.attached:
            raise Unwired(TAKEN_OFF)
        if index not in wiring.outlets:
            raise Unwired(f"{stack.blocks[index]} was called, which the step that was proved left out")
        if index in self._idle:
            return wiring.outlets[index].hand_through(arguments_of(args, kwargs))
        if index not in self.engine.deep:
            output = self.compute(block, args, kwargs)
            self.ran += 1
            if index == wiring.shallow:
                self.H = self.engine.keep(index, take_apart(output)[0], self.batch, wiring.copies)
            return output
        arguments = arguments_of(args, kwargs)
        if index == wiring.first and not self.engine.deep.start:
            entering = arguments_of(*as_entering(block.module, args, kwargs))
            self.H = self.engine.entering(index, wiring, entering, self.batch)
        if index != wiring.last:
            return wiring.outlets[index].hand_through(arguments)
        self.H = beside(self.H, wiring.outlets[index].outlines)
        D_hat = [stack.raw(stack.blocks[index], d, self.batch) for d in self.prediction(self.H)]
        return rebuild(wiring.shape, [d.clone() for d in D_hat] if wiring.copies else D_hat)
