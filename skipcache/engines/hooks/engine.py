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

from torch import nn

from skipcache.blocks import Streams
from skipcache.branches import branches_of
from skipcache.engines import Features, StepResult, beside
from skipcache.engines.hooks.modes import same_modes
from skipcache.engines.hooks.overrides import in_place, overrides, still_there
from skipcache.engines.hooks.proved import UNSTEADY, Proved
from skipcache.engines.hooks.runs import TAKEN_OFF, CachedRun, FullRun, Run, Unwired, WiringObserver
from skipcache.engines.hooks.trials import Trials, given
from skipcache.engines.hooks.watch import Watched
from skipcache.engines.hooks.wiring import Wiring
from skipcache.predictors import Prediction
from skipcache.stack import Plan, Stack, deep_blocks
from skipcache.trajectory import WRITES, Call, versions

LOST = "the model has lost blocks since; call skipcache.restore, and accelerate it anew"
READ = "the forward reads what a deep block returns, by {}; a cached step has no such value"


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
        self.blocks = overrides(self)
        self.attached = self.closed = False
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "stack", "plan", "deep", "idle_head", "blocks", "attached", "closed")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        self._proved = Proved()
        self._state: Hashable = None  # of the model, when its blocks were looked at
        self._local, self._lock = threading.local(), threading.Lock()

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
        return LOST if not self.blocks else getattr(self._proved.get(call), "refusal", None)

    def serves(self, call: Call) -> bool:
        self._follow(call)
        wiring = self._proved.get(call)
        return wiring is not None and not wiring.refusal

    def can_cache(self, call: Call, prediction: Prediction) -> bool:
        """Features of another shape are left where the forward has changed its inner batch since."""
        self._follow(call)
        wiring = self._proved.get(call)
        return wiring is not None and not wiring.refusal and wiring.suits(prediction.kept)

    def full(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """The first one of a signature learns the wiring and proves it; all others are compared with it."""
        self._follow(call)
        wiring = self._proved.get(call)
        if not (self.attached and self.blocks) or (wiring is not None and wiring.refusal):
            return self._plain(forward, call)
        if wiring is None:
            objection = self._proved.objection(call)
            return self._plain(forward, call, objection) if objection else self._first(forward, call)
        run = FullRun(self, call.batch, wiring)
        output, watched = self._watched(run, forward, call, wiring)
        features = Features(beside(run.H, run.D), run.D) if run.D else None
        if watched.called and (watched.read or watched.trouble or features is None):
            return StepResult(output, run.ran, reason=self._doubt(call, watched))
        return StepResult(output, run.ran, features=features)

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> StepResult:
        wiring = self._proved.get(call)
        if wiring is None:  # another thread has dropped it
            return self.full(forward, call)
        run = CachedRun(self, call.batch, wiring, prediction)
        watched = Watched(run, self, wiring, caches=True)
        try:
            output = self.do(watched, forward, call)
            if watched.read:
                raise Unwired(watched.read)
            if not self.attached:  # taken off on the way: blocks may have computed on what others handed through
                raise Unwired(TAKEN_OFF)
        except Unwired as trouble:
            watched.trouble = watched.trouble or str(trouble)
            return self._plain(forward, call, self._doubt(call, watched))
        self._proved.pays(call)
        prediction.saw(run.H)
        return StepResult(output, run.ran, full=False)

    def _plain(self, forward: Callable[..., Any], call: Call, reason: str | None = None) -> StepResult:
        return StepResult(call.run(forward), len(self.stack.blocks), reason=reason)

    def _doubt(self, call: Call, watched: Watched) -> str:
        """What was proved does not hold on this step: it is refused for good, or proved anew on the next full step.

        A call without a state is no step: FLOPs are counted by it, on values of no sample.
        """
        if watched.read:
            refusal = READ.format(watched.read)
            if call.state is not None:
                self._proved.put(call, Wiring(refusal=refusal))
            return refusal
        if call.state is not None:
            self._proved.drop(call)
        return watched.trouble or UNSTEADY

    def rehearsal(self, copy: nn.Module, call: Call) -> Iterator[Callable[[], Any]]:
        """The copy shows its own wiring; what only values prove is known of the model."""
        twin, known = HookEngine(copy, self.stack, self.plan), self._proved.get(call)
        twin.attach()

        def done(run: Run) -> Any:
            with twin.doing(run):
                return call.run(copy.forward)

        seen = WiringObserver(twin, call.batch)
        yield lambda: done(seen)
        wiring = replace(seen.wiring(), idle_head=known is not None and known.idle_head)
        if not wiring.refusal:
            yield lambda: done(given(twin, seen.D, call, wiring))

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

    def do(self, run: Watched, forward: Callable[..., Any], call: Call) -> Any:
        with same_modes(), self.doing(run):
            output = call.run(forward)
            run.finish(output)
        return output

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

        Models that write to their features in place are found out by the tensors' versions or by the proof.
        """
        before, trials = versions(call), Trials(self, forward, call)
        output, watched = self._watched(run := trials.full, forward, call)
        self._proved.tries(call)
        if not watched.called:
            return StepResult(output, run.ran)
        wiring = self._seen(run, watched.read, versions(call) == before)
        wiring, features = (wiring, None) if wiring.refusal else trials.prove(output, wiring)
        self._proved.put(call, wiring)
        return StepResult(output, run.ran, features=features)

    def _seen(self, run: WiringObserver, read: str | None, unwritten: bool) -> Wiring:
        wiring = run.wiring() if unwritten else Wiring(refusal=WRITES)
        return Wiring(refusal=READ.format(read)) if read and not wiring.refusal else wiring

    def _watched(
        self, run: Run, forward: Callable[..., Any], call: Call, known: Wiring | None = None
    ) -> tuple[Any, Watched]:
        watched = Watched(run, self, known)
        return self.do(watched, forward, call), watched

    # blocks that are replaced

    def _follow(self, call: Call) -> None:
        """Blocks that were replaced since get overrides of their own, and what the old ones showed is forgotten.

        Overrides that a copy of the model or a `compile()` of a block has dropped are put on again.
        """
        if call.state is None or call.state is not self._state:
            if not still_there(self.model, self.stack.blocks, self.blocks):
                self._replace()
            self._state = call.state
        if self.attached and not in_place(self.blocks):
            self.attach()

    def _replace(self) -> None:
        with self._lock:
            for block in self.blocks:
                block.take_off()
            self._proved = Proved()
            try:
                self.blocks = overrides(self)
            except AttributeError:
                self.blocks = []
