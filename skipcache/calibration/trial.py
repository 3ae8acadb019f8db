"""Corrections, fitted on runs that sample: least squares for the slopes and scalars that bring the next state where an
uncached run of the same noise has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.calibration.step_maps import Sampler, StepMap, flattened, solved
from skipcache.calibration.watcher import PREDICTOR, Watcher, full_step
from skipcache.engines.hooks.engine import HookEngine
from skipcache.policies.placed import Placed
from skipcache.predictors.base import Predictor
from skipcache.runtime.corrections import Corrections, added, correctable, main_output, terms_of, with_main_output
from skipcache.trajectory.call import Call
from skipcache.trajectory.trajectory import Visit

RIDGE = 1e-4  # of a column's own square: the scalars hardly change from 0 to 1e-2


@dataclass(frozen=True)
class _Aim:
    """What the output of one call should be, for the next state to be the uncached run's."""

    sampler: Sampler
    found: StepMap
    lane: int
    total: Tensor  # of the lane's parts, weighed as the sampler weighs them

    def mix(self, values: Tensor) -> Tensor:
        return self.sampler.mixed(self.found, self.lane, values)

    def missed_by(self, e: Tensor, terms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(A, b): `terms` as columns, and what they should add up to beside e."""
        return torch.stack([flattened([self.mix(x)]) for x in terms], dim=1), flattened([self.total - self.mix(e)])


@dataclass
class _Sums:
    """The normal equations of one step, over runs and lanes."""

    gram: Tensor
    rhs: Tensor

    @classmethod
    def of(cls, A: Tensor, b: Tensor, before: _Sums | None) -> _Sums:
        """With what was summed before, where it has as many columns."""
        gram, rhs = A.T @ A, A.T @ b
        if before is None or before.rhs.shape != rhs.shape:
            return cls(gram, rhs)
        return cls(before.gram + gram, before.rhs + rhs)

    def solved(self) -> list[float]:
        found: list[float] = solved(self.gram, self.rhs, RIDGE).tolist()
        return found


class Trial(Watcher):
    """A cached run, with full steps as placed.

    `sampler`: corrections are fitted on the way, step after step, each on what the ones before have led to.
    `corrections`: those are applied.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        policy: Placed,
        sampler: Sampler | None = None,
        corrections: Corrections | None = None,
        predictor: Predictor = PREDICTOR,
    ) -> None:
        super().__init__(model, engine.stack, scheduler, predictor, policy)
        self.predictor = predictor
        self.engine, self.sampler, self.given = engine, sampler, corrections
        self._sums: dict[int, _Sums] = {}
        self._fitted: dict[int, tuple[float, ...]] = {}
        self._slope_sums: dict[int, _Sums] = {}
        self._slopes: dict[int, float] = {}

    @property
    def corrections(self) -> Corrections | None:
        """As fitted, in the numbers that a file holds; None where no step needs one."""
        fitted = [self._fitted.get(i, ()) for i in range(self.steps())]
        slopes = tuple(self._slopes.get(i, 1.0) for i in range(self.steps())) if self._slopes else ()
        return Corrections(tuple(fitted), slopes) if slopes or any(any(w) for w in fitted) else None

    @property
    def is_joint(self) -> bool:
        """All that was fitted together ran with what came out: one run, of one lane."""
        return len(self.seen) == 1 and len(self._lanes) == 1

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        aim = self._aim(visit.step, lane, call)
        if visit.full:
            output, features = full_step(self.engine, self.plain, call)
            self.trajectory.record(visit, *features)
        else:
            if aim is not None:
                self._fit_slope(aim, call, visit)
            slope = self._slopes.get(visit.step, 1.0) if self.given is None else self.given.slope(visit.step)
            output = self._cached(call, visit, slope)
        e = main_output(output, call)
        if e is None or not correctable(output, call):
            return output
        before = visit.lane.outputs_before(visit.step)
        visit.lane.remember(visit.step, e)
        if self.given is not None:
            e = self.given.apply(visit.step, call.sample, e, before)
        elif aim is not None:
            terms = terms_of(call.sample, e, before)
            self._sums[visit.step] = sums = _Sums.of(*aim.missed_by(e, terms), self._sums.get(visit.step))
            self._fitted[visit.step] = tuple(sums.solved())
            e = added(e, terms, self._fitted[visit.step])
        return with_main_output(output, call, e)

    def _cached(self, call: Call, visit: Visit, slope: float) -> Any:
        return self.engine.cached(self.plain, call, visit.lane.predict(visit.step, self.predictor, slope))

    def _fit_slope(self, aim: _Aim, call: Call, visit: Visit) -> None:
        """Between the outputs without a slope and with all of it, as if the blocks between were linear."""
        if len(visit.lane.full_steps) < self.predictor.depth:
            return
        outputs = [self._cached(call, visit, slope) for slope in (0.0, 1.0)]
        flat, sloped = (main_output(output, call) for output in outputs)
        if flat is None or sloped is None or not correctable(outputs[0], call):
            return
        A, b = aim.missed_by(flat, [sloped.float() - flat.float()])
        self._slope_sums[visit.step] = sums = _Sums.of(A, b, self._slope_sums.get(visit.step))
        (self._slopes[visit.step],) = sums.solved()

    def _aim(self, step: int, lane: int, call: Call) -> _Aim | None:
        sampler, run = self.sampler, len(self.seen) - 1
        if sampler is None or step >= len(sampler.maps) or run >= len(sampler.truth.seen):
            return None
        found, truth = sampler.maps[step], sampler.truth.seen[run][step]
        if found is None or lane not in truth or lane not in sampler.rows or truth[lane].x.shape != call.sample.shape:
            return None
        share = sum(w for part, w in found.e.items() if part[0] == lane) / (found.total or 1.0)
        dx = sampler.state(lane, call.sample) - sampler.state(lane, truth[lane].x)
        carried = self._carried(sampler, found, run, step, dx)
        return _Aim(sampler, found, lane, sampler.mixed(found, lane, truth[lane].e) - share * carried)

    def _carried(self, sampler: Sampler, found: StepMap, run: int, step: int, dx: Tensor) -> Tensor:
        """What the next state is off by, whatever the output at this step."""
        total = dx * found.x
        behind = sampler.drift(self, run, step - 1) if found.e_before else None
        if behind is not None:
            total = total + behind[0] * found.x_before
            for part, weight in found.e_before.items():
                if part in behind[1]:
                    total = total + behind[1][part] * weight
        return total
