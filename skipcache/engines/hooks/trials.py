"""Trials of a model: a cached step that is given D itself must do what the full step did.

No block runs for them: those of the head and the tail are answered for by what the full step showed (`answers.py`),
which also compares what they are given, and the deep ones are left out. So the code between the blocks is what is
proved. Blocks of the two ends run once more only where nothing can answer for them, or where that trial has failed.

Each trial starts from what was outside of the model before the full step, and what it leaves is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipcache.blocks import Outside, Streams, modules_of, quietly
from skipcache.branches import branches_of
from skipcache.engines import Features, beside, lost_effects, same_output
from skipcache.engines.answers import Answers
from skipcache.engines.hooks.runs import CachedRun, FullRun, Unwired, WiringObserver
from skipcache.engines.hooks.watch import Watched
from skipcache.engines.hooks.wiring import Wiring
from skipcache.predictors import Hold, Prediction
from skipcache.trajectory import Call

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine
    from skipcache.engines.hooks.overrides import BlockCall

UNPROVED = "a cached step that was given D itself did not give the full step's output"


class Trials:
    """The trials of one signature. They are made before the full step that they are compared with, which is `full`."""

    def __init__(self, engine: HookEngine, forward: Callable[..., Any], call: Call) -> None:
        self.engine, self.forward, self.call = engine, forward, call
        self.outside = Outside(modules_of(engine.model))
        ends = [block.module for block in engine.blocks if block.index not in engine.deep]
        self.answers = Answers(ends, self.outside, call.sample.device, branches_of(engine.model))
        self.full = WiringObserver(engine, call.batch, self.answers)

    def prove(self, output: Any, seen: Wiring) -> tuple[Wiring, Features | None]:
        """After `full`: the wiring that holds, with a refusal where none does, and the features to keep.

        Models that write to their features in place are found out here, and run once more on copies.
        """
        self.answers.finish()
        features = Features(beside(self.full.H, self.full.D), self.full.D)
        answered = not (seen.copies or self.answers.unsound)
        ways = [(seen, self.answers)] if answered else []
        flaw: str | None = None
        for wiring, answers in [*ways, (seen, None), (replace(seen, copies=True), None)]:
            features = self._on_copies(wiring) if wiring.copies else features
            flaw = self._flaw(output, features, wiring, answers)
            if flaw != UNPROVED:
                break
        if flaw is not None:
            return Wiring(refusal=flaw), None
        idle = replace(wiring, idle_head=True)
        free = self.engine.idle_head and self._flaw(output, features, idle, answers) is None
        return (idle if free else wiring), features

    def _on_copies(self, wiring: Wiring) -> Features:
        run = FullRun(self.engine, self.call.batch, wiring)
        with quietly(self.call.sample.device, self.engine.model):
            self.outside.put_back()
            self.engine.do(Watched(run, self.engine, wiring), self.forward, self.call)
        return Features(beside(run.H, run.D), run.D)

    def _flaw(self, output: Any, features: Features, wiring: Wiring, answers: Answers | None) -> str | None:
        """What a cached step does differently."""
        engine = self.engine
        trial = Trial(engine, self.call.batch, wiring, _of(features.D), answers)
        watched = Watched(trial, engine, wiring, caches=True)
        outside = None if answers is None else self.outside
        with quietly(self.call.sample.device, engine.model, outside) as after:
            self.outside.put_back()
            try:
                again = engine.do(watched, self.forward, self.call)
            except Exception as error:
                # Code between the blocks may read a tensor of which no values are held, in any way.
                if answers is not None or isinstance(error, Unwired):
                    return UNPROVED
                raise
            return lost_effects(after) or (None if same_output(output, again) and not watched.read else UNPROVED)


class Trial(CachedRun):
    """A cached step that is given D itself. `answers` stand for the blocks at the ends; None: they run."""

    def __init__(
        self, engine: HookEngine, batch: int, wiring: Wiring, prediction: Prediction, answers: Answers | None
    ) -> None:
        super().__init__(engine, batch, wiring, prediction)
        self.answers = answers
        if answers is not None:
            answers.rewind()

    def compute(self, block: BlockCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.answers is None:
            return super().compute(block, args, kwargs)
        return self.answers.answer(self.engine.stack.blocks[block.index], args, kwargs)


def _of(D: Streams) -> Prediction:
    return Prediction(Hold(), [D], (), residual=False)


def given(engine: HookEngine, D: Streams, call: Call, wiring: Wiring) -> CachedRun:
    """A cached step that is given D itself."""
    return CachedRun(engine, call.batch, wiring, _of(D))
