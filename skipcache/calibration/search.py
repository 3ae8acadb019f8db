"""Which placement of full steps, with which units kept, comes nearest to the uncached run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from skipcache.blocks import class_name
from skipcache.calibration.calibration import Calibration
from skipcache.calibration.check import quantile
from skipcache.calibration.placement import place
from skipcache.calibration.runs import Cost, Runs
from skipcache.calibration.trial import Trial
from skipcache.calibration.watcher import PREDICTOR
from skipcache.engines.hooks import HookEngine
from skipcache.policies import Spread
from skipcache.predictors import Damped, Forecast
from skipcache.runtime import Corrections

STRETCH = 3  # the longest distance that is tried, over the mean one
USUAL_STEPS = 50  # of a run, where no scheduler tells before it has ended
USUAL_DISTANCE = 4  # between full steps, where the goal does not tell
SPREAD = "spread"  # the way of `Spread`, which rests on no measurement
DAMPED = "damped"  # the way of `accelerate(speedup=)`, without corrections


@dataclass(frozen=True)
class Goal:
    """What to reach: `name` is "speedup", "full_steps" or "max_error"."""

    name: str
    value: float

    def full_steps(self, cost: Cost, steps: int) -> int | None:
        """The number of full steps in a run; the most that may be tried where an error is asked for; None: no way."""
        if self.name == "full_steps":
            return int(self.value)
        if self.name == "speedup":
            return max((k for k in range(2, steps + 1) if cost.speedup(k, steps) >= self.value), default=None)
        return steps


@dataclass(frozen=True)
class Tried:
    """A placement that was run, what was fitted on the way, and how far its last state was from the uncached run's.

    `is_final`: a run with these corrections would give the same samples, so that no confirming run is needed.
    """

    engine: HookEngine
    full_steps: tuple[int, ...]
    error: float
    corrections: Corrections | None = None
    is_final: bool = True
    predictor: Forecast | Damped = PREDICTOR
    errors: tuple[float, ...] = ()  # of samples that nothing was fitted on


class Search:
    """The choices of one calibration. `correct`: corrections are fitted, where the output can be corrected.

    `check` samples what nothing was fitted on; an error that is asked for is then that of these, at `level`.
    """

    def __init__(
        self, runs: Runs, goal: Goal, correct: bool, check: Callable[[], Any] | None = None, level: float = 0.9
    ) -> None:
        self.runs, self.goal, self.correct = runs, goal, correct
        self.check, self.level = check, level
        self._placed: dict[int, tuple[int, ...]] | None = None
        self._way: str | None = None  # to place full steps, the one that did best

    def found(self) -> Calibration | None:
        """The best calibration of all choices of units that reach the goal; None where none does."""
        self.runs.sample_uncached(self._longest)
        goal, runs = self.goal, self.runs
        if goal.name == "full_steps" and goal.value > runs.steps:
            raise ValueError(f"full_steps: expected at most {runs.steps}, the steps of the run, got {int(goal.value)}")
        asked = [(e, goal.full_steps(cost, runs.steps), cost) for e, cost in zip(runs.engines, runs.costs)]
        possible = [(e, count, cost) for e, count, cost in asked if count is not None]
        if goal.name == "max_error":
            reached = [(self._fewest(e, count, goal.value), cost) for e, count, cost in possible]
            made = [self._calibration(tried, cost) for tried, cost in reached if tried is not None]
            return max(made, key=lambda c: c.speedup, default=None)
        trials = [(self._nearest(e, count), cost) for e, count, cost in possible]
        if not trials:
            return None
        best, cost = min(trials, key=lambda trial: trial[0].error)
        return self._calibration(self._settled(best), cost)

    @property
    def most(self) -> float:
        """The largest speedup that any choice of units reaches with 2 full steps."""
        return max(cost.speedup(2, self.runs.steps) for cost in self.runs.costs)

    def _longest(self, costs: list[Cost], steps: int | None) -> int:
        """The longest distance between full steps that is tried."""
        if self.goal.name == "max_error":
            return STRETCH * USUAL_DISTANCE
        steps = steps or USUAL_STEPS
        counts = (self.goal.full_steps(cost, steps) for cost in costs)
        fewest = min((count for count in counts if count is not None), default=steps)
        return max(2, math.ceil(STRETCH * steps / fewest))

    def _nearest(self, engine: HookEngine, count: int) -> Tried:
        """The best of the ways to place: found by trial with the units of the first engine, and then kept."""
        steps = self.runs.steps
        spread = Spread(count / steps).places(steps, self.runs.uncached.flow_times)
        ways = {SPREAD: spread}
        measured = self._placements().get(count)
        ways |= {"measured": measured} if measured is not None else {}
        distinct = {places: way for way, places in ways.items()}
        ways[DAMPED] = spread
        tried = [self._way] if self._way in ways else [*distinct.values(), DAMPED]
        trials = {
            way: self._bare(engine, ways[way], Damped()) if way == DAMPED else self._fitted(engine, ways[way])
            for way in tried
        }
        self._way = min(trials, key=lambda way: trials[way].error)
        return trials[self._way]

    def _placements(self) -> dict[int, tuple[int, ...]]:
        """By number of full steps, whatever the units: errors are measured with those of the first engine."""
        if self._placed is None:
            measure, steps = self.runs.uncached, self.runs.steps
            found = place(self.runs.alike(measure.errors()), steps, range(1, measure.knots[-1] + 1), steps)
            self._placed = {k: placement.full_steps for k, placement in found.items()}
        return self._placed

    def _fewest(self, engine: HookEngine, count: int, most: float) -> Tried | None:
        """By bisection the fewest full steps, up to `count`, that keep the error; all of them make none."""
        low, high, found = min(2, count), count, None
        while low <= high:
            middle = (low + high) // 2
            tried = self._settled(self._nearest(engine, middle))
            tried = self._checked(tried)
            if (quantile(tried.errors, self.level) if tried.errors else tried.error) <= most:
                found, high = tried, middle - 1
            else:
                low = middle + 1
        return found

    def _fitted(self, engine: HookEngine, full_steps: tuple[int, ...]) -> Tried:
        """A trial on which corrections are fitted, where they are asked for and can be had."""
        if not (self.correct and self.runs.uncached.correctable):
            return self._bare(engine, full_steps)
        trial = self.runs.trial(engine, full_steps, fit=True)
        error = self.runs.maps(engine).error(trial)
        return Tried(engine, full_steps, *self.runs.alike((error, trial.corrections, trial.is_joint)))

    def _bare(self, engine: HookEngine, full_steps: tuple[int, ...], predictor: Forecast | Damped = PREDICTOR) -> Tried:
        trial = self.runs.trial(engine, full_steps, predictor=predictor)
        return Tried(engine, full_steps, self._error(engine, trial), predictor=predictor)

    def _error(self, engine: HookEngine, trial: Trial) -> float:
        return self.runs.alike(self.runs.maps(engine).error(trial))

    def _settled(self, tried: Tried) -> Tried:
        """With corrections as they come out, or without, where they do not help."""
        engine, full_steps, corrections = tried.engine, tried.full_steps, tried.corrections
        if corrections is None:
            return tried
        if not tried.is_final:
            trial = self.runs.trial(engine, full_steps, corrections=corrections)
            tried = Tried(engine, full_steps, self._error(engine, trial), corrections)
        bare = self._bare(engine, full_steps)
        return bare if bare.error <= tried.error else tried

    def _checked(self, tried: Tried) -> Tried:
        """With the errors of other samples, where they are asked for."""
        if self.check is None or tried.errors:
            return tried
        about = (tried.engine, tried.full_steps, tried.corrections, tried.predictor)
        return replace(tried, errors=self.runs.checked(*about, self.check))

    def _calibration(self, tried: Tried, cost: Cost) -> Calibration:
        runs, plan = self.runs, tried.engine.plan
        found = Calibration(
            model=class_name(runs.model),
            depth=plan.depth,
            keep=(plan.head, plan.tail),
            timesteps=runs.uncached.timesteps(),
            full_steps=tried.full_steps,
            error=tried.error,
            speedup=cost.speedup(len(tried.full_steps), runs.steps),
            scheduler=None if runs.scheduler is None else type(runs.scheduler).__name__,
            guidance=runs.maps(tried.engine).guidance,
            corrections=tried.corrections,
            predictor=tried.predictor,
            errors=self._checked(tried).errors,
        )
        return runs.alike(found)
