"""One accelerated step. It is written here alone: sampling and calibration both run it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn

from skipcache.blocks import Snapshot, tensors_of
from skipcache.engines import Engine, Order, Recent, StepResult
from skipcache.predictors import Predictor
from skipcache.runtime.corrections import correctable, main_output, with_main_output
from skipcache.trajectory import WRITES, Call, Processes, Visit, versions

IDLE = "the forward did not run its blocks on a step, so that there was nothing to cache"
UNSERVED = (
    "a step that the policy would have cached ran in full: the arguments differ in more than their tensors from those "
    "of the last full step, or what the model's forward reads has changed"
)


ELSEWHERE = "another process that holds a part of this model could not prove a cached step"
MAX_ELSEWHERE = 16  # signatures


class Corrector(Protocol):
    """What changes a step beside the prediction: `Corrections`, or what fits them."""

    def slope(self, step: int) -> float:
        """What the predictor's weights are multiplied by on this cached step."""

    def apply(self, step: int, x: Tensor, e: Tensor, before: Sequence[Tensor]) -> Tensor:
        """The model's output e, corrected. `before` are its own outputs at the steps before, the latest first."""


class StepRunner:
    """Runs calls of one model by its engines.

    Args:
        order: of the engines.
        refused: called with an engine that cannot serve a call, the reason, and whether no other is left. What it
            raises ends the step. True: the model is to run once more, since something else serves it now.
        noted: called with a reason that no engine can serve after all.
    """

    def __init__(
        self,
        model: nn.Module,
        order: Order,
        predictor: Predictor,
        refused: Callable[[Engine, str, bool], bool],
        noted: Callable[[str], None],
    ) -> None:
        self.model, self.order, self.predictor = model, order, predictor
        self.refused, self.noted = refused, noted
        self.processes: Processes | None = None  # that hold the model together
        self._elsewhere: Recent[str] = Recent(MAX_ELSEWHERE)
        self._proving = threading.RLock()  # a trial puts back what it finds changed, by another thread's trial too

    def run(
        self,
        forward: Callable[..., Any],
        call: Call,
        visit: Visit,
        corrector: Corrector | None = None,
    ) -> StepResult:
        """The step that `visit` asks for, or a full one where no engine can cache; its features are recorded."""
        result = None if visit.full else self._cached(forward, call, visit, corrector)
        if result is None:
            result = self.full(forward, call)
        if result.full and not visit.full:
            result = replace(result, reason=result.reason or UNSERVED)
        if result.features is not None:
            visit.run.record(visit, *result.features, None if self.processes is None else self.processes.total)
        if corrector is not None:
            result = _corrected(result, call, visit, corrector)
        # A loop may write to what it gave and to what it is given: a model may hand both through as they are.
        visit.lane.cache.keep_apart((*tensors_of(result.output), *call.tensors))
        return result

    def full(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """A full step by the first engine that can serve this signature; those before it say why they cannot."""
        result: StepResult | None = None
        before, snapshot = versions(call), None
        engines = self.order.for_full(call)
        for engine in engines:
            if self._refusal(engine, call) is None:
                if snapshot is not None:
                    # The model has run already for an engine that found only then that it cannot serve.
                    snapshot.put_back()
                served = engine.serves(call)
                with nullcontext() if served else self._proving:
                    served = served or engine.serves(call)  # another thread may have proved it meanwhile
                    snapshot = None if served else Snapshot(call.sample.device, self.model)
                    engine.attach()
                    result = engine.full(forward, call)
                    result = result if served else self._proved_by_all(result, engine, call)
                if result.features is not None:
                    return replace(result, engine=engine.name)
                if self._refusal(engine, call) is None:
                    self.noted(result.reason or IDLE)
                    return result
            if result is not None and versions(call) != before:
                self.noted(WRITES)
                break
            if self.refused(engine, self._refusal(engine, call) or "", engine is engines[-1]):
                if snapshot is not None:
                    snapshot.put_back()
                return StepResult(call.run(forward), depth_of(engines))
        if result is not None:
            return replace(result, features=None)
        return StepResult(call.run(forward), depth_of(engines))

    def _cached(
        self, forward: Callable[..., Any], call: Call, visit: Visit, corrector: Corrector | None
    ) -> StepResult | None:
        """None where no engine can make a cached step of this call."""
        cache = visit.lane.cache
        slope = 1.0 if corrector is None else corrector.slope(visit.step)
        prediction = cache.predict(visit.step, self.predictor, slope)
        for engine in self.order.for_cached():
            if self._elsewhere.get((engine.name, call.signature)) is None and engine.can_cache(call, prediction):
                result = engine.cached(forward, call, prediction)
                if not result.full:
                    self.order.cached(call)
                elif result.features is None:
                    prediction.saw(None)
                return result
        return None

    def _refusal(self, engine: Engine, call: Call) -> str | None:
        return self._elsewhere.get((engine.name, call.signature)) or engine.refusal(call)

    def _proved_by_all(self, result: StepResult, engine: Engine, call: Call) -> StepResult:
        """The first step of a signature. Where other processes hold the model too, its proof counts if all have it."""
        proved = result.features is not None
        if self.processes is None or self.processes.agree(proved, call.sample.device):
            return result
        self._elsewhere.put((engine.name, call.signature), ELSEWHERE)
        return replace(result, features=None)


def depth_of(engines: Sequence[Engine]) -> int:
    """The number of blocks in the stack."""
    return len(engines[0].stack.blocks)


def _corrected(result: StepResult, call: Call, visit: Visit, corrector: Corrector) -> StepResult:
    e = main_output(result.output, call)
    if e is None or not correctable(result.output, call):
        return result
    cache = visit.lane.cache
    better = corrector.apply(visit.step, call.x, e, cache.outputs_before(visit.step))
    cache.note_output(visit.step, e)
    return result if better is e else replace(result, output=with_main_output(result.output, call, better))
