"""The hook engine: on a cached step the deep blocks hand their input through, and the last of them hands out D-hat.

A forward hook cannot keep a module from computing, so each block's `forward` is overridden on the instance. What a
block does is set from outside, once per call of the model, for the calling thread alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from skipcache.blocks.override import Override
from skipcache.blocks.snapshot import quietly, same_output
from skipcache.blocks.streams import Streams, alike, arguments_of, handed_in, rebuild, take_apart
from skipcache.engines.hooks.wiring import Outlet, Wiring
from skipcache.predictors.base import Hold, Prediction
from skipcache.stack.plan import Plan
from skipcache.stack.stack import Stack
from skipcache.trajectory.call import WRITES, Call, outline, version, versions

MAX_SIGNATURES = 16
LOST = "the model has lost blocks since; call skipcache.restore, and accelerate it anew"

Features = tuple[Streams | None, Streams]


class BlockForward(Override):
    """Stands in for one block's `forward`."""

    def __init__(self, engine: HookEngine, index: int, block: nn.Module) -> None:
        super().__init__(block)
        self.engine, self.index = engine, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.engine.run
        return self.plain(*args, **kwargs) if run is None else run.block(self, args, kwargs)


class HookEngine:
    """Full and cached steps of a model through overridden blocks."""

    name = "hooks"

    def __init__(self, model: nn.Module, stack: Stack, plan: Plan) -> None:
        self.model, self.stack, self.plan = model, stack, plan
        sizes = [len(unit) for unit in stack.units]
        self.deep = range(sum(sizes[: plan.head]), sum(sizes[: plan.depth - plan.tail]))
        self.blocks = self._overrides()
        self.attached = False
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("model", "stack", "plan", "deep", "blocks", "attached")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        self._wirings: OrderedDict[Hashable, Wiring] = OrderedDict()
        self._local = threading.local()
        self._lock = threading.Lock()

    def attach(self) -> None:
        """Put the overrides on, once."""
        with self._lock:
            if not self.attached:
                self.attached = True
                for block in self.blocks:
                    block.put_on()

    def detach(self) -> None:
        with self._lock:
            self.attached = False
            for block in self.blocks:
                block.take_off()

    def _overrides(self) -> list[BlockForward]:
        return [BlockForward(self, i, self.model.get_submodule(path)) for i, path in enumerate(self.stack.blocks)]

    def _follow(self) -> None:
        """Blocks that were replaced since get overrides of their own, and what the old ones showed is forgotten."""
        places = [path.rpartition(".")[::2] for path in self.stack.blocks]
        held = {parent: self.model.get_submodule(parent)._modules for parent in {parent for parent, _ in places}}
        if all(held[parent].get(name) is block.module for block, (parent, name) in zip(self.blocks, places)):
            return
        attached = self.attached
        self.detach()
        self._wirings = OrderedDict()
        try:
            self.blocks = self._overrides()
        except AttributeError:
            self.blocks = []
        if attached:
            self.attach()

    @property
    def run(self) -> FullRun | FirstRun | CachedRun | None:
        """What the calling thread is doing; None outside of an accelerated call."""
        return getattr(self._local, "run", None)

    @contextmanager
    def doing(self, run: FullRun | FirstRun | CachedRun | None) -> Iterator[None]:
        before, self._local.run = self.run, run
        try:
            yield
        finally:
            self._local.run = before

    def refusal(self, call: Call) -> str | None:
        wiring = self._wirings.get(call.key)
        return LOST if not self.blocks else wiring.refusal if wiring is not None else None

    def knows(self, call: Call) -> bool:
        """A full step with this signature was seen, and cached steps may follow it."""
        self._follow()
        return call.key in self._wirings and not self._wirings[call.key].refusal

    def saved(self, call: Call, prediction: Prediction) -> int | None:
        """The number of blocks that a cached step does not run; None where none can be made."""
        return len(self.deep) if self.knows(call) else None

    def full(self, forward: Callable[..., Any], call: Call) -> tuple[Any, Features | None]:
        """The model's output, and (H, D) unless cached steps with this signature are refused."""
        self._follow()
        if self.refusal(call):
            return call.run(forward), None
        wiring = self._wirings.get(call.key)
        return self._first(forward, call) if wiring is None else self._full(forward, call, wiring)

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> Any:
        """The model's output from head, tail and the predicted deep feature."""
        run = CachedRun(self, call.batch, self._wirings[call.key], prediction)
        with self.doing(run):
            output = call.run(forward)
        prediction.saw(run.H)
        return output

    def _full(self, forward: Callable[..., Any], call: Call, wiring: Wiring) -> tuple[Any, Features]:
        run = FullRun(self, call.batch, wiring)
        with self.doing(run):
            output = call.run(forward)
        return output, (run.H, run.D)

    def _first(self, forward: Callable[..., Any], call: Call) -> tuple[Any, Features | None]:
        """A full step that learns the wiring, and proves it: a cached step that is given D must come out the same.

        Models that write to their features in place are found out here, by the tensors' versions or by the proof, and
        run once more on copies.
        """
        run, before = FirstRun(self, call.batch), versions(call)
        with self.doing(run):
            output = call.run(forward)
        seen = run.wiring() if versions(call) == before else Wiring(refusal=WRITES)
        features = (run.H, run.D)
        for wiring in (seen, replace(seen, copies=True)):
            if wiring.copies and not wiring.refusal:
                with quietly(call.sample.device, self.model):
                    features = self._full(forward, call, wiring)[1]
            if wiring.refusal or self._holds(forward, call, output, features, wiring):
                break
        else:
            wiring = Wiring(refusal="a cached step that was given D itself did not give the full step's output")
        self._remember(call, wiring)
        return output, None if wiring.refusal else features

    def _holds(self, forward: Callable[..., Any], call: Call, output: Any, features: Features, wiring: Wiring) -> bool:
        run = CachedRun(self, call.batch, wiring, Prediction(Hold(), [features[1]], (), residual=False))
        with quietly(call.sample.device, self.model), self.doing(run):
            return same_output(output, call.run(forward))

    def keep(self, index: int, streams: Streams, batch: int, copy: bool = False) -> Streams:
        """What the block at `index` handed out, in the canonical layout; by reference where that is safe."""
        path = self.stack.blocks[index]
        return tuple(self.stack.canonical(path, x.clone() if copy else x, batch) for x in streams)

    def entering(self, index: int, wiring: Wiring, arguments: Mapping[Hashable, Any], batch: int) -> Streams | None:
        """What enters the block at `index`, in the order in which it hands its streams out; None where one doesn't."""
        inlets = wiring.outlets[index].inlets
        streams = tuple(x for x in map(arguments.get, inlets) if x is not None)
        sure = self.stack.enters_canonical and len(streams) == len(inlets)
        return self.keep(index, streams, batch, wiring.copies) if sure else None

    def _remember(self, call: Call, wiring: Wiring) -> None:
        self._wirings[call.key] = wiring
        while len(self._wirings) > MAX_SIGNATURES:
            self._wirings.popitem(last=False)


class FullRun:
    """One full step of a known wiring: all blocks compute; H and D are kept."""

    def __init__(self, engine: HookEngine, batch: int, known: Wiring) -> None:
        self.engine, self.batch, self.known = engine, batch, known
        self.H: Streams | None = None
        self.D: Streams = ()

    def block(self, block: BlockForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, known = block.index, self.known
        if index == known.first and not self.engine.deep.start:
            self.H = self.engine.entering(index, known, arguments_of(args, kwargs), self.batch)
        output = block.plain(*args, **kwargs)
        if index == known.shallow:
            self.H = self.engine.keep(index, take_apart(output)[0], self.batch, known.copies)
        elif index == known.last:
            self.D = self.engine.keep(index, take_apart(output)[0], self.batch, known.copies)
        return output


class FirstRun:
    """The first full step of a signature: all blocks compute; H, D and the wiring are seen."""

    def __init__(self, engine: HookEngine, batch: int) -> None:
        self.engine, self.batch = engine, batch
        self.H: Streams | None = None
        self.D: Streams = ()
        self._called: list[int] = []
        self._shape: Any = None
        self._outlets: dict[int, Outlet] = {}
        self._inlets: dict[type, tuple[Hashable, ...]] = {}
        self._handed: tuple[type, Streams] = (type(None), ())
        self._entry: dict[Hashable, Any] = {}
        self._versions: dict[str, list[tuple[Tensor, int]]] = {}

    def block(self, block: BlockForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, kind, deep = block.index, type(block.module), self.engine.deep
        arguments = arguments_of(args, kwargs)
        self._learn_inlets(kind, arguments)
        if index in deep and not any(i in deep for i in self._called):
            self._entry = {key: x for key, x in arguments.items() if isinstance(x, Tensor)}
            self._watch("entry", tuple(self._entry.values()))
        self._called.append(index)
        output = block.plain(*args, **kwargs)
        streams, shape = take_apart(output)
        self._outlets[index] = Outlet(shape, tuple(map(outline, streams)), alike(streams, arguments))
        self._handed = (kind, streams)
        if index < deep.start:
            self._watch("H", streams)
            self.H = self.engine.keep(index, streams, self.batch)
        elif index in deep:
            self._watch("D", streams)
            self.D, self._shape = self.engine.keep(index, streams, self.batch), shape
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
        wiring = Wiring(max(head, default=-1), deep[0], deep[-1], self._shape, self._wired(), copies)
        if not self.engine.deep.start:
            self.H = self.engine.entering(deep[0], wiring, self._entry, self.batch)
        return wiring


class CachedRun:
    """One cached step: head and tail compute, the deep blocks hand through, the last of them hands out D-hat."""

    def __init__(self, engine: HookEngine, batch: int, wiring: Wiring, prediction: Prediction) -> None:
        self.engine, self.batch, self.wiring, self.prediction = engine, batch, wiring, prediction
        self.H: Streams | None = None

    def block(self, block: BlockForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        index, stack, wiring = block.index, self.engine.stack, self.wiring
        if index not in self.engine.deep:
            output = block.plain(*args, **kwargs)
            if index == wiring.shallow:
                self.H = self.engine.keep(index, take_apart(output)[0], self.batch, wiring.copies)
            return output
        arguments = arguments_of(args, kwargs)
        if index == wiring.first and not self.engine.deep.start:
            self.H = self.engine.entering(index, wiring, arguments, self.batch)
        if index != wiring.last:
            return wiring.outlets[index].hand_through(arguments)
        D_hat = [stack.raw(stack.blocks[index], d, self.batch) for d in self.prediction(self.H)]
        return rebuild(wiring.shape, [d.clone() for d in D_hat] if wiring.copies else D_hat)
