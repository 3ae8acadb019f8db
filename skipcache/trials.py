"""The runs of one calibration: errors measured, placements tried, corrections fitted, each beside the uncached run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipcache.calibration import Calibration
from skipcache.correction import Corrections
from skipcache.fitting import Trial
from skipcache.flops import count_flops, zero_call
from skipcache.hooks import HookEngine
from skipcache.measure import PREDICTOR, Measure, Watcher, watch
from skipcache.placed import Placed
from skipcache.placement import place
from skipcache.predictor import Damped, Forecast
from skipcache.sampler import Sampler
from skipcache.spread import POWER, Spread

KNOTS = (1, 2, 3, 5, 8, 12, 16, 25)  # distances between full steps, and from them, at which errors are measured
STRETCH = 3  # the longest distance that is tried, over the mean one
LEARNING = 4  # the interval of the run on which the sampler is learned
POWERS = (1.75, 2.0)  # of `Spread`, whose placements rest on no measurement
DAMPED = "damped"  # the way of `accelerate(speedup=)`, without corrections

Goal = tuple[str, float]  # "speedup", "full_steps" or "max_error", and how much of it
Gain = Callable[[int], float]  # the FLOP-ideal speedup by number of full steps


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
    """All runs of one calibration: `uncached` is the one that the others are compared with."""

    model: nn.Module
    scheduler: Any
    run: Callable[[], Any]
    uncached: Watcher
    correct: bool
    tick: Callable[[str], None]

    def __post_init__(self) -> None:
        self.steps = self.uncached.steps()
        self.sampler: Sampler | None = None
        self._placed: dict[int, tuple[int, ...]] | None = None
        self._way: str | None = None  # to place that did best
        self.most = 1.0  # the largest speedup that any choice of units reaches with 2 full steps
        self.longest = 2  # distance between full steps that is tried

    def found(self, engines: list[HookEngine], goal: Goal) -> Calibration | None:
        """The best calibration of all choices of units that reach the goal."""
        gains = [self._gain(engine) for engine in engines]
        self.most = max(gain(2) for gain in gains)
        counts = [self._count(goal, gain) for gain in gains]
        fewest = min((count for count in counts if count is not None), default=self.steps)
        self.longest = max(2, math.ceil(STRETCH * (4 if goal[0] == "max_error" else self.steps / fewest)))
        asked = [(e, c, gain) for e, c, gain in zip(engines, counts, gains) if c is not None]
        if goal[0] == "max_error":
            reached = [(self._fewest(e, count, goal[1]), gain) for e, count, gain in asked]
            made = [self._calibration(tried, gain) for tried, gain in reached if tried is not None]
            return max(made, key=lambda c: c.speedup, default=None)
        trials = [(self._nearest(e, count), gain) for e, count, gain in asked]
        if not trials:
            return None
        best, gain = min(trials, key=lambda trial: trial[0].error)
        return self._calibration(self._settled(best), gain)

    def _nearest(self, engine: HookEngine, count: int) -> Tried:
        """By the best of the ways to place: found by trial with the units of the first engine, then kept."""
        share = count / self.steps
        ways = {str(power): Spread(share, power).places(self.steps) for power in POWERS}
        measured = self._placements(engine).get(count)
        ways |= {"measured": measured} if measured is not None else {}
        ways[DAMPED] = Spread(share, POWER).places(self.steps)
        tried = [self._way] if self._way in ways else list(ways)
        trials = {
            way: self._bare(engine, ways[way], Damped()) if way == DAMPED else self._fitted(engine, ways[way])
            for way in tried
        }
        self._way = min(trials, key=lambda way: trials[way].error)
        return trials[self._way]

    def _placements(self, engine: HookEngine) -> dict[int, tuple[int, ...]]:
        """By number of full steps. Errors are measured once, with the units of the first engine that asks."""
        if self._placed is None:
            tick = lambda: self.tick(_what(engine, "measuring"))  # noqa: E731
            measured = Measure(self.model, engine, self.scheduler, self._knots(), tick)
            self._watch(measured)
            found = place(measured.errors(), self.steps, range(1, self._knots()[-1] + 1), self.steps)
            self._placed = {k: placement.full_steps for k, placement in found.items()}
        return self._placed

    def _knots(self) -> tuple[int, ...]:
        return tuple(k for k in KNOTS if k <= self.longest)

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

    def _calibration(self, tried: Tried, gain: Gain) -> Calibration:
        plan, policy = tried.engine.plan, tried.policy
        return Calibration(
            type(self.model).__name__,
            plan.depth,
            (plan.head, plan.tail),
            policy.timesteps,
            policy.full_steps,
            tried.error,
            gain(len(policy.full_steps)),
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
        self._watch(trial)
        return trial

    def _watch(self, watcher: Measure | Trial) -> None:
        watcher.engine.attach()
        try:
            watch(watcher, self.run).check_repeats(self.uncached)
        finally:
            watcher.engine.detach()

    def _gain(self, engine: HookEngine) -> Gain:
        """The FLOP-ideal speedup of a run by its number of full steps."""
        blank = self.uncached.call
        assert blank is not None
        forward = self.model.__call__
        engine.attach()
        try:
            engine.full(forward, zero_call(blank))
            full, cached = count_flops(lambda call, step: step(call), engine, forward, blank, PREDICTOR)
        finally:
            engine.detach()
        return lambda k: self.steps * full / (k * full + (self.steps - k) * cached)

    def _count(self, goal: Goal, gain: Gain) -> int | None:
        """The number of full steps; with max_error the most that may be tried."""
        name, value = goal
        if name == "full_steps":
            if value > self.steps:
                raise ValueError(f"full_steps: expected at most {self.steps}, the steps of the run, got {value}")
            return int(value)
        if name == "speedup":
            return max((k for k in range(2, self.steps + 1) if gain(k) >= value), default=None)
        return self.steps


def _what(engine: HookEngine, doing: str) -> str:
    return f"keep ({engine.plan.head}, {engine.plan.tail}): {doing}"
