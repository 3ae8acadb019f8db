"""What a cached step would get wrong, measured in passing on a run that samples uncached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.blocks import Streams
from skipcache.calibration.placement import Errors
from skipcache.calibration.runner import runner_of
from skipcache.calibration.watcher import PREDICTOR, Watcher
from skipcache.engines.hooks import HookEngine
from skipcache.predictors import Prediction, remembered
from skipcache.runtime import main_output
from skipcache.trajectory import Call, Visit, blank_call

KNOTS = (1, 2, 3, 5, 8, 12, 16, 25)  # distances between full steps, and from them, at which errors are measured


@dataclass
class _Window:
    """Keeps what `depth` full steps left, R = D - H. It predicts nothing."""

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
        self.runner = runner_of(engine, self.window)
        self.knots: tuple[int, ...] = ()
        self._sums: dict[tuple[int, int, int], list[Tensor]] = defaultdict(list)

    def begins(self, call: Call, steps: int | None) -> None:
        longest = self.longest(blank_call(call), steps)
        self.knots = tuple(knot for knot in KNOTS if knot <= longest)
        self.window.depth = 2 * self.knots[-1]

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        result = self.runner.full(self.plain, call)
        assert result.features is not None  # the runner raises where the model cannot be cached
        truth, held = main_output(result.output, call), visit.lane.cache
        kept = dict(zip(held.full_steps, held.kept))
        for gap, ahead in self._bases(visit.step, kept):
            s = visit.step - ahead
            steps = [s] if gap == 0 else [s, s - gap]
            weights = PREDICTOR.weights(visit.step, steps)
            left = remembered(PREDICTOR, [kept[i] for i in steps], steps)
            prediction = Prediction(PREDICTOR, left, weights, held.residual)
            guess = main_output(self.engine.cached(self.plain, call, prediction).output, call)
            assert guess is not None and truth is not None
            self._sums[gap, ahead, visit.step].append((guess - truth).float().norm() / truth.float().norm())
        visit.run.record(visit, *result.features)
        if visit.opens_step:
            self.tick()
        return result.output

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
