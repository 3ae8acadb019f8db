"""The hook engine: on a cached step the deep blocks hand their input through, and the last of them hands out D-hat.

A forward hook cannot keep a module from computing, so the call of each block is overridden on the instance, around what
offloading, FSDP and torch.compile put into it. What a block does is set from outside, once per call of the model, for
the calling thread alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from skipcache.blocks import CallOverride, Outside, Streams, quietly
from skipcache.branches import branches_of
from skipcache.engines import Features, Recent, StepResult, beside, lost_effects, same_output
from skipcache.engines.hooks.runs import CachedRun, FullRun, Run, Unwired, WiringObserver
from skipcache.engines.hooks.wiring import Wiring
from skipcache.predictors import Hold, Prediction
from skipcache.stack import Plan, Stack, deep_blocks
from skipcache.trajectory import WRITES, Call, versions

MAX_SIGNATURES = 16
LOST = "the model has lost blocks since; call skipcache.restore, and accelerate it anew"
UNPROVED = "a cached step that was given D itself did not give the full step's output"


class BlockCall(CallOverride):
    """Stands in for the call of one block."""

    def __init__(self, engine: HookEngine, index: int, block: nn.Module) -> None:
        super().__init__(block)
        self.engine, self.index = engine, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = None if torch.compiler.is_compiling() else self.engine.run
        return self.plain(*args, **kwargs) if run is None else run.block(self, args, kwargs)


class HookEngine:
    """Full and cached steps of a model through overridden blocks.

    `idle_head`: leave the head out of cached steps that do not need H, where a trial proves that nothing else reads it.
    """

    name = "hooks"

    def __init__(self, model: nn.Module, stack: Stack, plan: Plan, idle_head: bool = False) -> None:
        self.model, self.stack, self.plan = model, stack, plan
        self.deep = deep_blocks(stack, plan)
        joined = stack.native_skips or branches_of(model) is not None  # branches carry the head's outputs to the tail
        self.idle_head = idle_head and self.deep.start > 0 and not joined
        self.blocks = self._overrides()
        self.attached = self.closed = False
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "stack", "plan", "deep", "idle_head", "blocks", "attached", "closed")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        self._wirings: Recent[Wiring] = Recent(MAX_SIGNATURES)
        self._local = threading.local()
        self._lock = threading.Lock()

    def attach(self) -> None:
        """Put the overrides on, where they are not."""
        with self._lock:
            if not self.closed:
                self.attached = True
                for block in self.blocks:
                    block.put_on()

    def detach(self) -> None:
        """A step that is under way on another thread ends as a plain one."""
        with self._lock:
            self.attached = False
            for block in self.blocks:
                block.take_off()

    def close(self) -> None:
        self.closed = True
        self.detach()

    def refusal(self, call: Call) -> str | None:
        wiring = self._wirings.get(call.signature)
        return LOST if not self.blocks else wiring.refusal if wiring is not None else None

    def serves(self, call: Call) -> bool:
        self._follow()
        wiring = self._wirings.get(call.signature)
        return wiring is not None and not wiring.refusal

    def can_cache(self, call: Call, prediction: Prediction) -> bool:
        return self.serves(call)

    def full(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """The first one of a signature learns the wiring and proves it."""
        self._follow()
        wiring = self._wirings.get(call.signature)
        if not (self.attached and self.blocks) or (wiring is not None and wiring.refusal):
            return StepResult(call.run(forward), len(self.stack.blocks))
        if wiring is None:
            return self._first(forward, call)
        run = FullRun(self, call.batch, wiring)
        output = self._do(run, forward, call)
        features = Features(beside(run.H, run.D), run.D) if run.D else None
        return StepResult(output, run.ran, features=features)

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> StepResult:
        wiring = self._wirings.get(call.signature)
        if wiring is None:  # another thread has dropped it
            return self.full(forward, call)
        run = CachedRun(self, call.batch, wiring, prediction)
        try:
            output = self._do(run, forward, call)
            if not self.attached:  # taken off on the way: blocks may have computed on what others handed through
                raise Unwired
        except Unwired:
            return StepResult(call.run(forward), len(self.stack.blocks))
        prediction.saw(run.H)
        return StepResult(output, run.ran, full=False)

    def rehearsal(self, copy: nn.Module, call: Call) -> Iterator[Callable[[], Any]]:
        """The copy shows its own wiring; what only values prove is known of the model."""
        twin, known = HookEngine(copy, self.stack, self.plan), self._wirings.get(call.signature)
        twin.attach()
        seen = WiringObserver(twin, call.batch)
        yield lambda: twin._do(seen, copy.forward, call)
        wiring = replace(seen.wiring(), idle_head=known is not None and known.idle_head)
        if wiring.refusal:
            return
        yield lambda: twin._do(twin._given(seen.D, call, wiring), copy.forward, call)

    # what a block does

    @property
    def run(self) -> Run | None:
        """What the calling thread is doing; None outside of an accelerated call."""
        return getattr(self._local, "run", None)

    @contextmanager
    def doing(self, run: Run | None) -> Iterator[None]:
        before, self._local.run = self.run, run
        try:
            yield
        finally:
            self._local.run = before

    def keep(self, index: int, streams: Streams, batch: int, copy: bool = False) -> Streams:
        """What the block at `index` handed out, in the canonical layout; by reference where that is safe."""
        path = self.stack.blocks[index]
        return tuple(self.stack.canonical(path, x.clone() if copy else x, batch) for x in streams)

    def entering(self, index: int, wiring: Wiring, arguments: Mapping[Hashable, Any], batch: int) -> Streams | None:
        """What enters the block at `index`, in the order in which it returns its streams; None where one is missing."""
        inlets = wiring.outlets[index].inlets
        streams = tuple(x for x in map(arguments.get, inlets) if x is not None)
        sure = self.stack.enters_canonical and len(streams) == len(inlets)
        return self.keep(index, streams, batch, wiring.copies) if sure else None

    # the first step of a signature

    def _first(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """A full step that learns the wiring, and proves it: a cached step that is given D must come out the same.

        Models that write to their features in place are found out here, by the tensors' versions or by the proof, and
        run once more on copies.
        """
        run, before, outside = WiringObserver(self, call.batch), versions(call), Outside(self.model.modules())
        output = self._do(run, forward, call)
        seen = run.wiring() if versions(call) == before else Wiring(refusal=WRITES)
        features = Features(beside(run.H, run.D), run.D)
        for wiring in (seen, replace(seen, copies=True)):
            if wiring.copies and not wiring.refusal:
                features = self._on_copies(forward, call, wiring, outside)
            flaw = wiring.refusal or self._flaw(forward, call, output, features, wiring, outside)
            if flaw is None or wiring.refusal:
                break
        if flaw is not None:
            wiring = Wiring(refusal=flaw)
        if self.idle_head and not wiring.refusal:
            idle = replace(wiring, idle_head=True)
            flaw = self._flaw(forward, call, output, features, idle, outside)
            wiring = idle if flaw is None else wiring
        self._wirings.put(call.signature, wiring)
        return StepResult(output, run.ran, features=None if wiring.refusal else features)

    def _do(self, run: Run, forward: Callable[..., Any], call: Call) -> Any:
        with self.doing(run):
            return call.run(forward)

    def _on_copies(self, forward: Callable[..., Any], call: Call, wiring: Wiring, outside: Outside) -> Features:
        run = FullRun(self, call.batch, wiring)
        with quietly(call.sample.device, self.model):
            outside.put_back()
            self._do(run, forward, call)
        return Features(beside(run.H, run.D), run.D)

    def _flaw(
        self,
        forward: Callable[..., Any],
        call: Call,
        output: Any,
        features: Features,
        wiring: Wiring,
        outside: Outside,
    ) -> str | None:
        """What a cached step does differently, from the state that was `outside` before the full step."""
        with quietly(call.sample.device, self.model) as after:
            outside.put_back()
            try:
                again = self._do(self._given(features.D, call, wiring), forward, call)
            except Unwired:
                return UNPROVED
            return lost_effects(after) or (None if same_output(output, again) else UNPROVED)

    def _given(self, D: Streams, call: Call, wiring: Wiring) -> CachedRun:
        """A cached step that is given D itself."""
        return CachedRun(self, call.batch, wiring, Prediction(Hold(), [D], (), residual=False))

    # blocks that are replaced

    def _overrides(self) -> list[BlockCall]:
        return [BlockCall(self, i, self.model.get_submodule(path)) for i, path in enumerate(self.stack.blocks)]

    def _follow(self) -> None:
        """Blocks that were replaced since get overrides of their own, and what the old ones showed is forgotten.

        Overrides that a copy of the model or a `compile()` of a block has dropped are put on again.
        """
        places = [path.rpartition(".")[::2] for path in self.stack.blocks]
        held = {parent: self.model.get_submodule(parent)._modules for parent in {parent for parent, _ in places}}
        now = (held[parent].get(name) if name else self.model for parent, name in places)
        if not all(module is block.module for block, module in zip(self.blocks, now)):
            self._replace()
        if self.attached:
            self.attach()

    def _replace(self) -> None:
        with self._lock:
            for block in self.blocks:
                block.take_off()
            self._wirings = Recent(MAX_SIGNATURES)
            try:
                self.blocks = self._overrides()
            except AttributeError:
                self.blocks = []
