"""What a cached step would get wrong, measured in passing on runs that sample uncached."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skipcache.call import Call, Mark, read_call
from skipcache.clock import timestep_values
from skipcache.flops import blank_call
from skipcache.hooks import HookEngine
from skipcache.override import Override
from skipcache.policy import Interval
from skipcache.predictor import Forecast, Prediction
from skipcache.stack import Stack
from skipcache.trajectory import Trajectory
from skipcache.verify import tensors_of

PREDICTOR = Forecast(1)

Errors = Mapping[tuple[int, int, int], float]  # by (steps from s' to s, 0 where there is no s'; s; t)


class Watcher(Override):
    """Stands in for the model's forward while `run` samples, and tells steps and lanes apart."""

    def __init__(self, model: nn.Module, stack: Stack, scheduler: Any, predictor: Any = PREDICTOR) -> None:
        super().__init__(model)
        self.stack, self.scheduler = stack, scheduler
        self.names = tuple(inspect.signature(self.__wrapped__).parameters)
        self.trajectory = Trajectory(Interval(1), predictor)
        self._times: list[list[tuple[float, ...]]] = []
        self._first: tuple[Mark, ...] = ()
        self.call: Call | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = read_call(self.names, self.stack.sample, self.stack.timestep, args, kwargs)
        if call is None:
            return self.plain(*args, **kwargs)
        visit = self.trajectory.visit(call, [] if self.scheduler is None else [self.scheduler])
        if visit.opens_step:
            if visit.step == 0:
                self._times.append([])
            self._times[-1].append(timestep_values(call.timestep))
        if not self._first:
            held = (call.sample, *call.conditioning)
            self._first = tuple(Mark.of(x.clone() if isinstance(x, Tensor) else x) for x in held)
            self.call = blank_call(call)
        return self.step(call, visit)

    def step(self, call: Call, visit: Any) -> Any:
        return call.run(self.plain)

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

    def begins_like(self, other: Watcher) -> bool:
        same = (mark.equal(theirs.value) for mark, theirs in zip(self._first, other._first))
        return len(self._first) == len(other._first) and all(same)


@dataclass(frozen=True)
class _Window:
    """Stands in for a predictor in a lane: what `depth` full steps left, R = D - H, is kept."""

    depth: int
    residual: bool = True


class Measure(Watcher):
    """At each step, cached steps on all pairs of steps before it that are near enough."""

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        gaps: tuple[int, ...],
        on_step: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        super().__init__(model, engine.stack, scheduler, _Window(2 * gaps[-1]))
        self.engine, self.gaps, self.on_step, self.total = engine, gaps, on_step, total
        self._sums: dict[tuple[int, int, int], list[Tensor]] = defaultdict(list)

    def step(self, call: Call, visit: Any) -> Any:
        output, features = self.engine.full(self.plain, call)
        if features is None:
            raise ValueError(f"{type(self.module).__name__} cannot be cached: {self.engine.refusal(call)}")
        truth, lane = _output(output, call), visit.lane
        kept = dict(zip(lane.full_steps, lane.kept))
        for gap, s in self._bases(visit.step, kept):
            steps = [s] if gap == 0 else [s, s - gap]
            weights = PREDICTOR.weights(visit.step, steps)
            prediction = Prediction(PREDICTOR, [kept[i] for i in steps], weights, lane.residual)
            guess = _output(self.engine.cached(self.plain, call, prediction), call)
            error = (guess - truth).float().norm() / truth.float().norm()
            self._sums[gap, s, visit.step].append(error)
        self.trajectory.record(visit, *features)
        if visit.opens_step and self.on_step is not None:
            self.on_step(sum(self.runs), self.total)
        return output

    def _bases(self, t: int, kept: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
        """(gap, s): s with the step a gap before it, or, at the start of a run, with none."""
        for s in range(t - self.gaps[-1] + 1, t):
            if s in kept:
                yield from ((gap, s) for gap in self.gaps if s - gap in kept)
        if 0 in kept and t < self.gaps[-1]:
            yield 0, 0

    def errors(self) -> Errors:
        return {key: torch.stack(errors).mean().item() for key, errors in self._sums.items()}


W = TypeVar("W", bound=Watcher)


def watch(watcher: W, run: Callable[[], Any]) -> W:
    watcher.put_on()
    try:
        with torch.no_grad():
            run()
    finally:
        watcher.take_off()
    return watcher


def _output(output: Any, call: Call) -> Tensor:
    """What the sampler goes on with: the first tensor, without learned variances."""
    found = next(iter(tensors_of(output)))
    if found.ndim == call.sample.ndim > 1 and found.shape[1] > call.sample.shape[1]:
        return found[:, : call.sample.shape[1]]
    return found
