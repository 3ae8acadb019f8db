"""The runs of one calibration: errors measured, placements tried, corrections fitted, each beside the uncached run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipcache.calibration import Calibration
from skipcache.correction import Corrections
from skipcache.fitting import Sampler, Trial
from skipcache.flops import count_flops, zero_call
from skipcache.hooks import HookEngine
from skipcache.measure import PREDICTOR, Measure, Watcher, watch
from skipcache.placed import Placed
from skipcache.placement import Errors, place
from skipcache.policy import Spread

KNOTS = (1, 2, 3, 5, 8, 12, 16, 25)  # distances between full steps, and from them, at which errors are measured
STRETCH = 3  # the longest distance that is tried, over the mean one
SPREADS = (1.75, 2.5)  # powers of `Spread`, whose placements rest on no measurement
INTERVALS = (2, 3, 4)  # every so many steps, and all steps at the end

Goal = tuple[str, float]  # "speedup", "full_steps" or "max_error", and how much of it
Gain = Callable[[int], float]  # the FLOP-ideal speedup by number of full steps


@dataclass(frozen=True)
class Tried:
    """A placement, and how far the last state of its run was from the uncached one's, over its size."""

    policy: Placed
    error: float


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
        self._errors: Errors | None = None
        self._way: int | None = None  # to place that did best
        self.most = 1.0  # the largest speedup that any choice of units reaches with 2 full steps
        self.longest = 2  # distance between full steps that is tried

    def found(self, engines: list[HookEngine], goal: Goal) -> list[Calibration]:
        """The best calibration of each choice of units that reaches the goal."""
        gains = [self._gain(engine) for engine in engines]
        self.most = max(gain(2) for gain in gains)
        counts = [self._count(goal, gain) for gain in gains]
        fewest = min((count for count in counts if count is not None), default=self.steps)
        self.longest = max(2, math.ceil(STRETCH * (4 if goal[0] == "max_error" else self.steps / fewest)))
        asked = [(e, c, gain) for e, c, gain in zip(engines, counts, gains) if c is not None]
        return [best for best in (self._best(e, c, goal, gain) for e, c, gain in asked) if best is not None]

    def _best(self, engine: HookEngine, count: int, goal: Goal, gain: Gain) -> Calibration | None:
        engine.attach()
        try:
            placements = self._placements(engine, count)
            if goal[0] == "max_error":
                return self._fewest(engine, placements, goal[1], gain)
            return self._nearest(engine, placements.get(count), count, gain)
        finally:
            engine.detach()

    def _nearest(
        self, engine: HookEngine, measured: tuple[int, ...] | None, count: int, gain: Gain
    ) -> Calibration | None:
        """The best of the ways to place, found by trial with the units of the first engine, and kept for the others."""
        ways = [measured, *(Spread(count / self.steps, power).places(self.steps) for power in SPREADS)]
        ways += [ending_full(interval, count, self.steps) for interval in INTERVALS]
        tried = {i: way for i, way in enumerate(ways) if way is not None and self._way in (None, i)}
        if not tried:
            return None
        trials = {i: self._trial(engine, way) for i, way in tried.items()}
        self._way = min(trials, key=lambda i: trials[i].error)
        return self._corrected(engine, trials[self._way], gain)

    def _placements(self, engine: HookEngine, count: int) -> dict[int, tuple[int, ...]]:
        """By number of full steps. Errors are measured once, with the units of the first engine that asks."""
        if self._errors is None:
            tick = lambda: self.tick(_what(engine, "measuring"))  # noqa: E731
            measured = Measure(self.model, engine, self.scheduler, self._knots(), tick)
            self._watch(measured)
            self._errors = measured.errors()
        gaps = range(1, self._knots()[-1] + 1)
        return {k: placement.full_steps for k, placement in place(self._errors, self.steps, gaps, count).items()}

    def _knots(self) -> tuple[int, ...]:
        return tuple(k for k in KNOTS if k <= self.longest)

    def _fewest(
        self, engine: HookEngine, placements: Mapping[int, tuple[int, ...]], most: float, gain: Gain
    ) -> Calibration | None:
        """By bisection the fewest full steps that keep the error; all of them make none."""
        counts = sorted(placements)
        low, high, found = 0, len(counts) - 1, None
        while low <= high:
            middle = (low + high) // 2
            tried = self._corrected(engine, self._trial(engine, placements[counts[middle]]), gain)
            if tried.error <= most:
                found, high = tried, middle - 1
            else:
                low = middle + 1
        return found

    def _trial(self, engine: HookEngine, full_steps: tuple[int, ...]) -> Tried:
        policy = Placed(full_steps, self.uncached.timesteps())
        return Tried(policy, self._known_sampler(engine).error(self._run(engine, policy)))

    def _corrected(self, engine: HookEngine, tried: Tried, gain: Gain) -> Calibration:
        """The calibration that a trial leads to, with corrections where they are asked for, can be had, and help."""
        sampler, policy = self._known_sampler(engine), tried.policy
        error, corrections = tried.error, None
        if self._corrects and error > 0:
            trial = self._run(engine, policy, sampler)
            corrections = trial.corrections
            if corrections is not None and not trial.is_joint:
                trial = self._run(engine, policy, corrections=corrections)
            better = sampler.error(trial)
            error, corrections = (better, corrections) if better < error else (error, None)
        return Calibration(
            type(self.model).__name__,
            engine.plan.depth,
            (engine.plan.head, engine.plan.tail),
            policy.timesteps,
            policy.full_steps,
            error,
            gain(len(policy.full_steps)),
            None if self.scheduler is None else type(self.scheduler).__name__,
            sampler.guidance,
            corrections,
        )

    @property
    def _corrects(self) -> bool:
        return self.correct and self.uncached.correctable

    def _known_sampler(self, engine: HookEngine) -> Sampler:
        """Learned once, from a run with cached steps from the first one on."""
        if self.sampler is None:
            policy = Placed(tuple(range(0, self.steps, 2)), self.uncached.timesteps())
            self.sampler = Sampler(self.uncached, self._run(engine, policy))
        return self.sampler

    def _run(
        self,
        engine: HookEngine,
        policy: Placed,
        sampler: Sampler | None = None,
        corrections: Corrections | None = None,
    ) -> Trial:
        self.tick(_what(engine, f"trying {len(policy.full_steps)} full steps"))
        trial = Trial(self.model, engine, self.scheduler, policy, sampler, corrections)
        self._watch(trial)
        return trial

    def _watch(self, watcher: Watcher) -> None:
        watch(watcher, self.run).check_repeats(self.uncached)

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


def ending_full(interval: int, count: int, steps: int) -> tuple[int, ...] | None:
    """`count` full steps: every `interval`-th one, and from some step on all; None where there are too few for it."""
    for last in range(steps, -1, -1):
        placed = tuple(i for i in range(steps) if i % interval == 0 or i > last)
        if len(placed) == count:
            return placed
    return None


def _what(engine: HookEngine, doing: str) -> str:
    return f"keep ({engine.plan.head}, {engine.plan.tail}): {doing}"
