"""What a cached step would get wrong, measured in passing on runs that sample uncached."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skipcache.blocks.override import Override
from skipcache.blocks.streams import Streams
from skipcache.calibration.placement import Errors
from skipcache.engines.hooks.engine import HookEngine
from skipcache.policies.base import Interval
from skipcache.predictors.base import Forecast, Prediction, remembered
from skipcache.runtime.corrections import correctable, main_output
from skipcache.runtime.flops import blank_call
from skipcache.stack.stack import Stack
from skipcache.trajectory.call import Call, Mark, read_call
from skipcache.trajectory.clock import timestep_values
from skipcache.trajectory.trajectory import Trajectory, Visit

KNOTS = (1, 2, 3, 5, 8, 12, 16, 25)  # distances between full steps, and from them, at which errors are measured
PREDICTOR = Forecast(1)
UNCACHED = Interval(1)


@dataclass(frozen=True, eq=False)
class Seen:
    """One call: the sample x that came in, and the output e that went out, without learned variances."""

    x: Tensor
    e: Tensor


SeenAt = dict[int, Seen]  # by lane, in the order in which lanes were first called


class Watcher(Override):
    """Stands in for the model's forward while `run` samples; tells runs, steps and lanes apart, and notes x and e."""

    def __init__(
        self, model: nn.Module, stack: Stack, scheduler: Any, predictor: Any = PREDICTOR, policy: Any = UNCACHED
    ) -> None:
        super().__init__(model)
        self.stack, self.scheduler = stack, scheduler
        self.names = tuple(inspect.signature(self.__wrapped__).parameters)
        self.trajectory = Trajectory(policy, predictor)
        self.seen: list[list[SeenAt]] = []  # by run and step
        self.correctable = True
        self._times: list[list[tuple[float, ...]]] = []
        self._lanes: list[Any] = []
        self._first: tuple[Mark, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = read_call(self.names, self.stack.sample, self.stack.timestep, args, kwargs)
        if call is None:
            return self.plain(*args, **kwargs)
        visit = self.trajectory.visit(call, [] if self.scheduler is None else [self.scheduler])
        if visit.opens_step:
            if visit.step == 0:
                self._times.append([])
                self.seen.append([])
                self._lanes = []
            self._times[-1].append(timestep_values(call.timestep))
            self.seen[-1].append({})
        if not self._first:
            held = (call.sample, *call.conditioning)
            self._first = tuple(Mark.of(x.clone() if isinstance(x, Tensor) else x) for x in held)
            self.begins(call, visit.time.count)
        lane = self._number(visit.lane)
        output = self.step(call, visit, lane)
        self.note(call, lane, output)
        return output

    def begins(self, call: Call, steps: int | None) -> None:
        """The first call of all has come; `steps`: of its run, where a scheduler tells."""

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        return call.run(self.plain)

    def note(self, call: Call, lane: int, output: Any) -> None:
        e = main_output(output, call)
        self.correctable = self.correctable and correctable(output, call)
        if e is not None:
            self.seen[-1][-1][lane] = Seen(call.sample.clone(), e.clone())

    def _number(self, lane: Any) -> int:
        if lane not in self._lanes:  # lanes are told apart by identity
            self._lanes.append(lane)
        return self._lanes.index(lane)

    @property
    def runs(self) -> list[int]:
        """How many steps each had."""
        return list(map(len, self._times))

    def steps(self) -> int:
        if len(set(self.runs)) > 1:
            raise ValueError(f"run: its runs of the model have {self.runs} steps; calibrate on runs of one length")
        return self.runs[0]

    def timesteps(self) -> tuple[float, ...]:
        return tuple(sum(values) / len(values) for values in self._times[0])

    def check_repeats(self, first: Watcher) -> None:
        """Raises ValueError where this was not the same run as `first`."""
        same = (mark.equal(theirs.value) for mark, theirs in zip(self._first, first._first))
        if len(self._first) != len(first._first) or not all(same):
            raise ValueError("run: two calls of it did not begin with equal inputs; seed inside of it")
        if self.runs != first.runs:
            raise ValueError("run: it called the model another number of times the second time; it must repeat itself")


@dataclass
class _Window:
    """Stands in for a predictor in a lane: what `depth` full steps left, R = D - H, is kept."""

    depth: int
    residual: bool = True

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        return [feature, *kept][: self.depth]


class Measure(Watcher):
    """At each step of an uncached run, cached steps on pairs of steps before it whose distances are `knots`.

    `longest`: the largest distance of interest, asked for when the first call has shown the outline of a call.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        longest: Callable[[Call, int | None], int],
        tick: Callable[[], None],
    ) -> None:
        self.window = _Window(0)
        super().__init__(model, engine.stack, scheduler, self.window)
        self.engine, self.longest, self.tick = engine, longest, tick
        self.knots: tuple[int, ...] = ()
        self._sums: dict[tuple[int, int, int], list[Tensor]] = defaultdict(list)

    def begins(self, call: Call, steps: int | None) -> None:
        longest = self.longest(blank_call(call), steps)
        self.knots = tuple(knot for knot in KNOTS if knot <= longest)
        self.window.depth = 2 * self.knots[-1]

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        output, features = full_step(self.engine, self.plain, call)
        truth, held = main_output(output, call), visit.lane
        kept = dict(zip(held.full_steps, held.kept))
        for gap, ahead in self._bases(visit.step, kept):
            s = visit.step - ahead
            steps = [s] if gap == 0 else [s, s - gap]
            weights = PREDICTOR.weights(visit.step, steps)
            left = remembered(PREDICTOR, [kept[i] for i in steps], steps)
            prediction = Prediction(PREDICTOR, left, weights, held.residual)
            guess = main_output(self.engine.cached(self.plain, call, prediction), call)
            assert guess is not None and truth is not None
            self._sums[gap, ahead, visit.step].append((guess - truth).float().norm() / truth.float().norm())
        self.trajectory.record(visit, *features)
        if visit.opens_step:
            self.tick()
        return output

    def _bases(self, t: int, kept: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
        """(gap, ahead): a full step so far back, with the one a gap before it, or, at the start of a run, with none."""
        for ahead in self.knots:
            if t - ahead in kept:
                yield from ((gap, ahead) for gap in self.knots if t - ahead - gap in kept)
            if t == ahead:
                yield 0, ahead

    def errors(self) -> Errors:
        """By (gap, s, t), for all gaps and distances up to the largest knot: between knots by linear interpolation."""
        measured = {key: torch.stack(errors).mean().item() for key, errors in self._sums.items()}
        return interpolated(measured, self.steps(), self.knots)


def interpolated(measured: Errors, steps: int, knots: tuple[int, ...]) -> Errors:
    """Errors at t by (gap, s, t), out of those by (gap, ahead, t) at the knots."""
    reach = knots[-1] + 1
    errors: dict[tuple[int, int, int], float] = {}
    start = [(t, measured[0, t, t]) for t in knots if (0, t, t) in measured]
    errors.update({(0, 0, t): _between(start, t) for t in range(1, min(steps, reach)) if start})
    for t in range(1, steps):
        by_gap = {
            gap: [(ahead, measured[gap, ahead, t]) for ahead in knots if (gap, ahead, t) in measured] for gap in knots
        }
        for s in range(max(1, t - reach + 1), t):
            over = [(gap, _between(line, t - s)) for gap, line in by_gap.items() if line]
            errors.update({(gap, s, t): _between(over, gap) for gap in range(1, min(s + 1, reach)) if over})
    return errors


def _between(line: Sequence[tuple[int, float]], at: int) -> float:
    """The value at `at` of the line through the points; past the last one in proportion, since errors grow."""
    before = [point for point in line if point[0] <= at]
    after = [point for point in line if point[0] > at]
    if not after:
        return before[-1][1] * at / before[-1][0]
    (x, y), (x2, y2) = before[-1] if before else (0, 0.0), after[0]
    return y + (y2 - y) * (at - x) / (x2 - x)


def full_step(engine: HookEngine, plain: Callable[..., Any], call: Call) -> tuple[Any, Any]:
    """The output of a full step, and (H, D). Raises ValueError for a model that cannot be cached."""
    output, features = engine.full(plain, call)
    if features is None:
        raise ValueError(f"{type(engine.model).__name__} cannot be cached: {engine.refusal(call)}")
    return output, features


W = TypeVar("W", bound=Watcher)


def watch(watcher: W, run: Callable[[], Any]) -> W:
    watcher.put_on()
    try:
        with torch.no_grad():
            run()
    finally:
        watcher.take_off()
    return watcher
