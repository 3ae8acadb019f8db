"""A cached run on which corrections are fitted or tried.

Least squares gives the slopes and scalars that bring the next state to where an uncached run of the same noise has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.calibration.runner import runner_of
from skipcache.calibration.step_maps import StepMap, StepMaps, flattened, solved
from skipcache.calibration.watcher import PREDICTOR, Watcher
from skipcache.engines.hooks import HookEngine
from skipcache.policies import Placed
from skipcache.predictors import Predictor
from skipcache.runtime import LARGEST, Corrections, added, correctable, main_output, terms_of
from skipcache.trajectory import Call, Visit

RIDGE = 1e-4  # of a column's own square: the scalars hardly change from 0 to 1e-2


@dataclass(frozen=True)
class _Aim:
    """What the output of one call should be, for the next state to be the uncached run's."""

    maps: StepMaps
    found: StepMap
    lane: int
    total: Tensor  # of the lane's parts, weighed as the sampler weighs them

    def mix(self, values: Tensor) -> Tensor:
        return self.maps.mixed(self.found, self.lane, values)

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


@dataclass
class _Fitting:
    """Corrects one step while it fits what to correct by; `aim` is None where nothing can be fitted."""

    trial: Trial
    call: Call
    visit: Visit
    aim: _Aim | None

    def slope(self, step: int) -> float:
        if self.aim is not None:
            self.trial.fit_slope(self.aim, self.call, self.visit)
        return self.trial.slopes.get(step, 1.0)

    def apply(self, step: int, x: Tensor, e: Tensor, before: Sequence[Tensor]) -> Tensor:
        if self.aim is None:
            return e
        terms = terms_of(x, e, before)
        return added(e, terms, self.trial.fit_scalars(self.aim, step, terms, e))


class Trial(Watcher):
    """A cached run, with full steps as placed.

    `maps`: corrections are fitted on the way, step after step, each on what the ones before have led to.
    `corrections`: those are applied.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        policy: Placed,
        maps: StepMaps | None = None,
        corrections: Corrections | None = None,
        predictor: Predictor = PREDICTOR,
    ) -> None:
        super().__init__(model, engine.stack, scheduler, predictor, policy)
        self.predictor = predictor
        self.engine, self.maps, self.given = engine, maps, corrections
        self.runner = runner_of(engine, predictor)
        self._sums: dict[int, _Sums] = {}
        self._fitted: dict[int, tuple[float, ...]] = {}
        self._slope_sums: dict[int, _Sums] = {}
        self.slopes: dict[int, float] = {}

    @property
    def corrections(self) -> Corrections | None:
        """As fitted, in the numbers that a file holds; None where no step needs one."""
        fitted = [self._fitted.get(i, ()) for i in range(self.steps())]
        slopes = tuple(self.slopes.get(i, 1.0) for i in range(self.steps())) if self.slopes else ()
        return Corrections(tuple(fitted), slopes) if slopes or any(any(w) for w in fitted) else None

    @property
    def is_joint(self) -> bool:
        """True if rerunning with these corrections would give the same samples: there was one run, of one lane."""
        return len(self.seen) == 1 and len(self._lanes) == 1

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        corrector = _Fitting(self, call, visit, self._aim(visit.step, lane, call)) if self.given is None else self.given
        return self.runner.run(self.plain, call, visit, corrector).output

    def fit_slope(self, aim: _Aim, call: Call, visit: Visit) -> None:
        """Between the outputs without a slope and with all of it, as if the blocks between were linear."""
        cache = visit.lane.cache
        if len(cache.full_steps) < self.predictor.depth:
            return
        predictions = [cache.predict(visit.step, self.predictor, slope) for slope in (0.0, 1.0)]
        outputs = [self.engine.cached(self.plain, call, prediction).output for prediction in predictions]
        flat, sloped = (main_output(output, call) for output in outputs)
        if flat is None or sloped is None or not correctable(outputs[0], call):
            return
        A, b = aim.missed_by(flat, [sloped.float() - flat.float()])
        self._slope_sums[visit.step] = sums = _Sums.of(A, b, self._slope_sums.get(visit.step))
        (slope,) = sums.solved()
        self.slopes[visit.step] = slope if abs(slope) <= LARGEST else 1.0

    def fit_scalars(self, aim: _Aim, step: int, terms: Sequence[Tensor], e: Tensor) -> tuple[float, ...]:
        self._sums[step] = sums = _Sums.of(*aim.missed_by(e, terms), self._sums.get(step))
        scalars = tuple(sums.solved())
        usable = all(abs(w) <= LARGEST for w in scalars)  # not where samples grow without bound
        self._fitted[step] = scalars if usable else (0.0,) * len(scalars)
        return self._fitted[step]

    def _aim(self, step: int, lane: int, call: Call) -> _Aim | None:
        maps, run = self.maps, len(self.seen) - 1
        if maps is None or step >= len(maps.by_step) or run >= len(maps.truth.seen):
            return None
        found, truth = maps.by_step[step], maps.truth.seen[run][step]
        if found is None or lane not in truth or lane not in maps.rows or truth[lane].x.shape != call.x.shape:
            return None
        share = sum(w for part, w in found.e.items() if part[0] == lane) / (found.total or 1.0)
        dx = maps.state(lane, call.x) - maps.state(lane, truth[lane].x)
        carried = self._carried(maps, found, run, step, dx)
        return _Aim(maps, found, lane, maps.mixed(found, lane, truth[lane].e) - share * carried)

    def _carried(self, maps: StepMaps, found: StepMap, run: int, step: int, dx: Tensor) -> Tensor:
        """What the next state is off by, whatever the output at this step."""
        total = dx * found.x
        behind = maps.difference(self, run, step - 1) if found.e_before else None
        if behind is not None:
            total = total + behind[0] * found.x_before
            for part, weight in found.e_before.items():
                if part in behind[1]:
                    total = total + behind[1][part] * weight
        return total
