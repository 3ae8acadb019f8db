"""The rows of the benchmark: what is compared with the plain pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import skipcache
from skipcache.benchmarks.names.predictors import label_of, make_predictor
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass(frozen=True)
class Variant:
    """One thing to measure: skipcache at an interval, or with `interval` None the plain model with `steps` steps."""

    steps: int
    interval: int | None = None
    predictor: str | None = None
    matched: int | None = None  # the interval whose block evaluations a plain variant is given

    @property
    def label(self) -> str:
        if self.interval is None:
            return f"plain, {self.steps} steps"
        if self.interval == 1:
            return "interval 1"
        return f"interval {self.interval}, {label_of(self.predictor or 'hold')}"

    @property
    def group(self) -> int:
        return self.interval or self.matched or 0

    def attach(self, pipe: ReferencePipeline, keep: tuple[int, int]) -> None:
        if self.interval is not None:
            predictor = make_predictor(self.predictor) if self.predictor else None
            skipcache.accelerate(pipe, policy=skipcache.Interval(self.interval), keep=keep, predictor=predictor)


def telling(intervals: Iterable[int]) -> list[int]:
    """The two intervals that pictures show: the one nearest 3, and the largest."""
    cached = sorted(n for n in intervals if n > 1)
    return sorted({min(cached, key=lambda n: abs(n - 3)), cached[-1]}) if cached else []


def variants(settings: BenchSettings, depth: int, calls: Callable[[int], int]) -> list[Variant]:
    """Interval 1, which shows the overhead, then for each interval its predictors and its plain rival.

    `calls(steps)` is how often a run of so many sampler steps calls the denoiser.
    """
    rows = [Variant(settings.steps, interval=1)]
    for interval in sorted(set(settings.intervals) - {1}):
        rows += [Variant(settings.steps, interval, predictor) for predictor in settings.predictors]
        rows.append(Variant(rival_steps(settings, interval, depth, calls), matched=interval))
    return rows


def rival_steps(settings: BenchSettings, interval: int, depth: int, calls: Callable[[int], int]) -> int:
    """Sampler steps that give the plain model this interval's block evaluations, or a few more."""
    total = calls(settings.steps)
    full = math.ceil(total / interval)
    evaluations = full * depth + (total - full) * sum(settings.keep)
    return next(steps for steps in range(1, total + 1) if calls(steps) * depth >= evaluations)
