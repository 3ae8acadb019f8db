"""Trials of a model: a cached step that is given D itself must do what the full step did.

Each starts from what was outside of the model before the full step, and what it leaves is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipcache.blocks import Outside, Streams, quietly
from skipcache.engines import Features, beside, lost_effects, same_output
from skipcache.engines.hooks.runs import CachedRun, FullRun, Unwired
from skipcache.engines.hooks.watch import Watched
from skipcache.engines.hooks.wiring import Wiring
from skipcache.predictors import Hold, Prediction
from skipcache.trajectory import Call

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine

UNPROVED = "a cached step that was given D itself did not give the full step's output"


class Trials:
    """The trials of one signature. They are made before the full step that they are compared with runs."""

    def __init__(self, engine: HookEngine, forward: Callable[..., Any], call: Call) -> None:
        self.engine, self.forward, self.call = engine, forward, call
        self.outside = Outside(engine.model.modules())

    def prove(self, output: Any, features: Features, seen: Wiring) -> tuple[Wiring, Features]:
        """The wiring that holds, with a refusal where none does, and the features to keep.

        Models that write to their features in place are found out here, and run once more on copies.
        """
        flaw = None
        for wiring in (seen, replace(seen, copies=True)):
            if wiring.copies:
                features = self._on_copies(wiring)
            flaw = self._flaw(output, features, wiring)
            if flaw is None:
                break
        if flaw is not None:
            return Wiring(refusal=flaw), features
        idle = replace(wiring, idle_head=True)
        return (idle if self.engine.idle_head and self._flaw(output, features, idle) is None else wiring), features

    def _on_copies(self, wiring: Wiring) -> Features:
        run = FullRun(self.engine, self.call.batch, wiring)
        with quietly(self.call.sample.device, self.engine.model):
            self.outside.put_back()
            self.engine.do(Watched(run, self.engine, wiring), self.forward, self.call)
        return Features(beside(run.H, run.D), run.D)

    def _flaw(self, output: Any, features: Features, wiring: Wiring) -> str | None:
        """What a cached step does differently."""
        engine = self.engine
        watched = Watched(given(engine, features.D, self.call, wiring), engine, wiring, caches=True)
        with quietly(self.call.sample.device, engine.model) as after:
            self.outside.put_back()
            try:
                again = engine.do(watched, self.forward, self.call)
            except Unwired:
                return UNPROVED
            return lost_effects(after) or (None if same_output(output, again) and not watched.read else UNPROVED)


def given(engine: HookEngine, D: Streams, call: Call, wiring: Wiring) -> CachedRun:
    """A cached step that is given D itself."""
    return CachedRun(engine, call.batch, wiring, Prediction(Hold(), [D], (), residual=False))
