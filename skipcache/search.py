"""`calibrate`: which units to keep, where the full steps stand and what to add to the output, by trial.

Every full step s, with the one before it, s', forecasts the deep feature of the steps after it. On an uncached run the
error that this makes in the output is measured for s' < s < t near each other; dynamic programming picks the full steps
with the least sum. They come out sparse where features move along, and dense where they turn. That placement and a few
that rest on no measurement are then run; the one whose last state is nearest to the uncached run's is run again, with
corrections fitted on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from skipcache.branches import planned
from skipcache.calibration import Calibration
from skipcache.correction import Corrections
from skipcache.fitting import Sampler, Trial
from skipcache.flops import count_flops, zero_call
from skipcache.hooks import HookEngine
from skipcache.measure import PREDICTOR, Measure, Watcher, watch
from skipcache.override import check_plain
from skipcache.placement import Errors, place
from skipcache.plan import Keep
from skipcache.policy import Placed, Spread
from skipcache.stack import Stack
from skipcache.target import find_denoisers

KNOTS = (1, 2, 3, 5, 8, 12, 16, 25)  # distances between full steps, and from them, at which errors are measured
STRETCH = 3  # the longest distance that is tried, over the mean one
SPREADS = (1.75, 2.5)  # powers of `Spread`, whose placements rest on no measurement
INTERVALS = (2, 3, 4)  # every so many steps, and all steps at the end
KEEPS: tuple[Keep, ...] = (0, 1)  # what keep="auto" tries

Goal = tuple[str, float]


def calibrate(
    target: Any,
    run: Callable[[], Any],
    *,
    speedup: float | None = None,
    full_steps: int | None = None,
    max_error: float | None = None,
    keep: Keep | str = "auto",
    correct: bool = True,
    stack: Stack | None = None,
    progress: bool = True,
) -> Calibration:
    """Find by measuring how to spend a run's compute best. `target` is left as it was.

    Args:
        target: a plain denoiser, or a pipeline that holds one.
        run: samples in any way, a pipeline call or a loop, with seeds and prompts that you will not test on. It is
            called about ten times, and must repeat itself: seed inside of it. One call of 4 to 16 images is enough;
            several runs in a row, with as many steps each, count too.
        speedup, full_steps, max_error: what to reach, one of them: FLOPs of an uncached run over those of a cached one;
            the number of full steps; how far the last state may stray from the uncached run's, over its size.
        keep: units run at each end on a cached step, one int or (head, tail); "auto" tries 0 and 1.
        correct: fit scalars that are added to the output. False leaves the output of full steps as it is.
        progress: show a bar.

    Takes about as long as 10 to 20 uncached runs, and holds at most 50 deep features per lane, and per step of the run
    three pairs of a sample and an output. Raises ValueError where the goal cannot be reached, and where the run never
    calls the model, or differs from one time to the next.
    """
    goal = _read_goal({"speedup": speedup, "full_steps": full_steps, "max_error": max_error})
    if isinstance(run, type) or not callable(run):
        raise TypeError(f"run: expected a callable that samples, got {run!r}")
    model = _plain_model(target, stack)
    engines = [HookEngine(model, *planned(model, ends, stack)) for ends in _keeps(model, keep, stack)]
    scheduler = getattr(target, "scheduler", None)
    with _bar(progress) as tick:
        uncached = watch(Watcher(model, engines[0].stack, scheduler), run)
        if uncached.call is None:
            raise ValueError(f"run: it never called {type(model).__name__} with a sample and a timestep")
        search = Search(model, scheduler, run, uncached, correct, tick)
        found = search.found(engines, goal)
    if not found:
        raise ValueError(search.out_of_reach(goal))
    if goal[0] == "max_error":
        return max(found, key=lambda c: c.speedup)
    return min(found, key=lambda c: c.error)


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

    def out_of_reach(self, goal: Goal) -> str:
        if goal[0] == "speedup":
            return (
                f"speedup: {goal[1]} is out of reach; a run of {self.steps} steps with 2 full ones would have "
                f"{self.most:.2f}"
            )
        return f"{goal[0]}: no placement of {goal[1]} full steps among {self.steps} was found; ask for more of them"

    def _best(self, engine: HookEngine, count: int, goal: Goal, gain: Callable[[int], float]) -> Calibration | None:
        engine.attach()
        try:
            placements = self._placements(engine, count)
            if goal[0] == "max_error":
                return self._fewest(engine, placements, goal[1], gain)
            return self._nearest(engine, placements.get(count), count, gain)
        finally:
            engine.detach()

    def _nearest(
        self, engine: HookEngine, measured: tuple[int, ...] | None, count: int, gain: Callable[[int], float]
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
        self, engine: HookEngine, placements: Mapping[int, tuple[int, ...]], most: float, gain: Callable[[int], float]
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

    def _corrected(self, engine: HookEngine, tried: Tried, gain: Callable[[int], float]) -> Calibration:
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

    def _gain(self, engine: HookEngine) -> Callable[[int], float]:
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

    def _count(self, goal: Goal, gain: Callable[[int], float]) -> int | None:
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


def _plain_model(target: Any, stack: Stack | None) -> nn.Module:
    denoisers = find_denoisers(target, named=stack is not None)
    if len(denoisers) > 1:
        raise ValueError(f"target: expected one denoiser, got {', '.join(denoisers)}; calibrate each by itself")
    (model,) = denoisers.values()
    check_plain(model, "before calibrating it")
    return model


def _keeps(model: nn.Module, keep: Keep | str, stack: Stack | None) -> list[Keep]:
    """What to try: a stack with skip branches, or too shallow a one, does not take all."""
    if isinstance(keep, str):
        if keep != "auto":
            raise ValueError(f"keep: expected 'auto', an int or (head, tail), got {keep!r}")
        fitting = [ends for ends in KEEPS if _fits(model, ends, stack)]
        return fitting or [1]
    return [keep]


def _fits(model: nn.Module, keep: Keep, stack: Stack | None) -> bool:
    try:
        planned(model, keep, stack)
    except ValueError:
        return False
    return True


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("calibrate: {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not shown) as bar:
        task = bar.add_task("the uncached run", total=None)
        yield lambda what: bar.update(task, description=what)


def _read_goal(goals: Mapping[str, Any]) -> Goal:
    given = {name: goal for name, goal in goals.items() if goal is not None}
    if len(given) != 1:
        raise ValueError(f"expected one of speedup, full_steps and max_error, got {given or 'none'}")
    ((name, goal),) = given.items()
    whole = name == "full_steps"
    if isinstance(goal, bool) or not isinstance(goal, int if whole else (int, float)):
        raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {goal!r}")
    lowest = {"speedup": 1, "full_steps": 2, "max_error": 0}[name]
    if not goal >= lowest:
        raise ValueError(f"{name}: expected at least {lowest}, got {goal}")
    return name, goal
