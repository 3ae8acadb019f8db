"""The runs of one calibration: errors measured, placements tried, corrections fitted, each beside the uncached run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipcache.blocks.snapshot import quietly
from skipcache.calibration.calibration import Calibration
from skipcache.calibration.placement import place
from skipcache.calibration.step_maps import Sampler
from skipcache.calibration.trial import Trial
from skipcache.calibration.watcher import PREDICTOR, Measure, watch
from skipcache.engines.hooks.engine import HookEngine
from skipcache.policies.placed import Placed
from skipcache.policies.spread import SHORT, SHORT_POWER, Spread
from skipcache.predictors.base import Damped, Forecast
from skipcache.runtime.corrections import Corrections
from skipcache.runtime.flops import count_flops, zero_call
from skipcache.trajectory.call import Call

STRETCH = 3  # the longest distance that is tried, over the mean one
USUAL_STEPS = 50  # of a run, where no scheduler tells before it has ended
USUAL_DISTANCE = 4  # between full steps, where the goal does not tell
LEARNING = 4  # the interval of the run on which the sampler is learned
POWERS = (2.0, 2.5)  # of `Spread`, whose placements rest on no measurement
POWERS_IN_SHORT = (SHORT_POWER, 2.5)  # in few steps one of them nearer to even
DAMPED = "damped"  # the way of `accelerate(speedup=)`, without corrections

Goal = tuple[str, float]  # "speedup", "full_steps" or "max_error", and how much of it


@dataclass(frozen=True)
class Cost:
    """FLOPs of a full and of a cached call."""

    full: int
    cached: int

    def speedup(self, full_steps: int, steps: int) -> float:
        """The FLOP-ideal one of a run."""
        return steps * self.full / (full_steps * self.full + (steps - full_steps) * self.cached)


@dataclass(frozen=True)
class Tried:
    """A placement, what was fitted on the way, and how far the last state was from the uncached run's, over its size.

    `is_final`: a run with these corrections would come out just so.
    """

    engine: HookEngine
    policy: Placed
    error: float
    corrections: Corrections | None = None
    is_final: bool = True
    predictor: Forecast | Damped = PREDICTOR


@dataclass
class Search:
    """All runs of one calibration. The first is uncached: errors are measured on it, the others compared with it."""

    model: nn.Module
    engines: list[HookEngine]  # one for each choice of units
    scheduler: Any
    run: Callable[[], Any]
    goal: Goal
    correct: bool
    tick: Callable[[str], None]

    def __post_init__(self) -> None:
        self.costs: list[Cost] = []  # of the engines
        self.sampler: Sampler | None = None
        self._placed: dict[int, tuple[int, ...]] | None = None
        self._way: str | None = None  # to place that did best
        engine = self.engines[0]
        tick = lambda: self.tick(_what(engine, "the uncached run"))  # noqa: E731
        self.uncached = Measure(self.model, engine, self.scheduler, self._longest, tick)
        with _attached(engine):
            watch(self.uncached, self.run)
        self.uncached.trajectory.drop()
        if not self.costs:
            raise ValueError(f"run: it never called {type(self.model).__name__} with a sample and a timestep")
        self.steps = self.uncached.steps()

    def found(self) -> Calibration | None:
        """The best calibration of all choices of units that reach the goal."""
        name, value = self.goal
        if name == "full_steps" and value > self.steps:
            raise ValueError(f"full_steps: expected at most {self.steps}, the steps of the run, got {value}")
        counts = [self._count(cost, self.steps) for cost in self.costs]
        asked = [(e, c, cost) for e, c, cost in zip(self.engines, counts, self.costs) if c is not None]
        if name == "max_error":
            reached = [(self._fewest(e, count, value), cost) for e, count, cost in asked]
            made = [self._calibration(tried, cost) for tried, cost in reached if tried is not None]
            return max(made, key=lambda c: c.speedup, default=None)
        trials = [(self._nearest(e, count), cost) for e, count, cost in asked]
        if not trials:
            return None
        best, cost = min(trials, key=lambda trial: trial[0].error)
        return self._calibration(self._settled(best), cost)

    @property
    def most(self) -> float:
        """The largest speedup that any choice of units reaches with 2 full steps."""
        return max(cost.speedup(2, self.steps) for cost in self.costs)

    def _longest(self, blank: Call, steps: int | None) -> int:
        """The largest distance between full steps that is tried, told by the first call of all."""
        self.costs = [self._cost(engine, blank) for engine in self.engines]
        if self.goal[0] == "max_error":
            return STRETCH * USUAL_DISTANCE
        steps = steps or USUAL_STEPS
        counts = (self._count(cost, steps) for cost in self.costs)
        fewest = min((count for count in counts if count is not None), default=steps)
        return max(2, math.ceil(STRETCH * steps / fewest))

    def _nearest(self, engine: HookEngine, count: int) -> Tried:
        """By the best of the ways to place: found by trial with the units of the first engine, then kept."""
        share = count / self.steps
        powers = POWERS_IN_SHORT if self.steps <= SHORT else POWERS
        ways = {str(power): Spread(share, power).places(self.steps) for power in powers}
        measured = self._placements().get(count)
        ways |= {"measured": measured} if measured is not None else {}
        distinct = {places: way for way, places in ways.items()}
        ways[DAMPED] = Spread(share).places(self.steps)
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
            found = place(self.uncached.errors(), self.steps, range(1, self.uncached.knots[-1] + 1), self.steps)
            self._placed = {k: placement.full_steps for k, placement in found.items()}
        return self._placed

    def _fewest(self, engine: HookEngine, count: int, most: float) -> Tried | None:
        """By bisection the fewest full steps, up to `count`, that keep the error; all of them make none."""
        low, high, found = min(2, count), count, None
        while low <= high:
            middle = (low + high) // 2
            tried = self._settled(self._nearest(engine, middle))
            if tried.error <= most:
                found, high = tried, middle - 1
            else:
                low = middle + 1
        return found

    def _fitted(self, engine: HookEngine, full_steps: tuple[int, ...]) -> Tried:
        """A trial on which corrections are fitted, where they are asked for and can be had."""
        if not (self.correct and self.uncached.correctable):
            return self._bare(engine, full_steps)
        sampler, policy = self._known_sampler(engine), self._policy(full_steps)
        trial = self._run(engine, policy, sampler)
        return Tried(engine, policy, sampler.error(trial), trial.corrections, trial.is_joint)

    def _bare(self, engine: HookEngine, full_steps: tuple[int, ...], predictor: Forecast | Damped = PREDICTOR) -> Tried:
        policy = self._policy(full_steps)
        error = self._known_sampler(engine).error(self._run(engine, policy, predictor=predictor))
        return Tried(engine, policy, error, predictor=predictor)

    def _policy(self, full_steps: tuple[int, ...]) -> Placed:
        return Placed(full_steps, self.uncached.timesteps())

    def _settled(self, tried: Tried) -> Tried:
        """With corrections as they come out, or without, where they do not help."""
        engine, policy, corrections = tried.engine, tried.policy, tried.corrections
        if corrections is None:
            return tried
        if not tried.is_final:
            trial = self._run(engine, policy, corrections=corrections)
            tried = Tried(engine, policy, self._known_sampler(engine).error(trial), corrections)
        bare = self._bare(engine, policy.full_steps)
        return bare if bare.error <= tried.error else tried

    def _calibration(self, tried: Tried, cost: Cost) -> Calibration:
        plan, policy = tried.engine.plan, tried.policy
        return Calibration(
            type(self.model).__name__,
            plan.depth,
            (plan.head, plan.tail),
            policy.timesteps,
            policy.full_steps,
            tried.error,
            cost.speedup(len(policy.full_steps), self.steps),
            None if self.scheduler is None else type(self.scheduler).__name__,
            self._known_sampler(tried.engine).guidance,
            tried.corrections,
            isinstance(tried.predictor, Damped),
        )

    def _known_sampler(self, engine: HookEngine) -> Sampler:
        """Learned once, from a run with cached steps from the first one on."""
        if self.sampler is None:
            policy = self._policy(tuple(range(0, self.steps, LEARNING)))
            self.sampler = Sampler(self.uncached, self._run(engine, policy))
        return self.sampler

    def _run(
        self,
        engine: HookEngine,
        policy: Placed,
        sampler: Sampler | None = None,
        corrections: Corrections | None = None,
        predictor: Forecast | Damped = PREDICTOR,
    ) -> Trial:
        self.tick(_what(engine, f"trying {len(policy.full_steps)} full steps"))
        trial = Trial(self.model, engine, self.scheduler, policy, sampler, corrections, predictor)
        with _attached(engine):
            watch(trial, self.run).check_repeats(self.uncached)
        return trial

    def _cost(self, engine: HookEngine, blank: Call) -> Cost:
        """Counted within the uncached run, which it leaves as it was."""
        plain, zeros = self.uncached.plain, zero_call(blank)
        with _attached(engine):
            with quietly(zeros.sample.device, self.model):
                engine.full(plain, zeros)
            return Cost(*count_flops(lambda call, step: step(call), engine, plain, blank, PREDICTOR))

    def _count(self, cost: Cost, steps: int) -> int | None:
        """The number of full steps in a run of so many; with max_error the most that may be tried."""
        name, value = self.goal
        if name == "full_steps":
            return int(value)
        if name == "speedup":
            return max((k for k in range(2, steps + 1) if cost.speedup(k, steps) >= value), default=None)
        return steps


@contextmanager
def _attached(engine: HookEngine) -> Iterator[None]:
    before = engine.attached
    engine.attach()
    try:
        yield
    finally:
        if not before:
            engine.detach()


def _what(engine: HookEngine, doing: str) -> str:
    return f"keep ({engine.plan.head}, {engine.plan.tail}): {doing}"
