"""The rows of the benchmark: what is compared with the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import skipcache
from skipcache.benchmarks.names.predictors import label_of, make_predictor
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass(frozen=True)
class Variant:
    """One thing to measure: skipcache at an interval, or with `interval` None the plain model with `steps` steps.

    `placed`: `accelerate(pipe, interval=n)`, which chooses the places and the units kept; else `policy=Interval(n)`. A
    plain variant, the rival at as many block evaluations, says which of the two it is matched with.
    """

    steps: int
    interval: int | None = None
    predictor: str | None = None
    matched: int | None = None  # the interval whose block evaluations a plain variant is given
    placed: bool = False

    @property
    def label(self) -> str:
        if self.interval is None:
            return f"plain, {self.steps} steps"
        rule = f"interval={self.interval}" if self.placed else f"Interval({self.interval})"
        return f"{rule}, {label_of(self.predictor)}" if self.predictor else rule

    @property
    def group(self) -> int:
        return self.interval or self.matched or 0

    def attach(self, pipe: ReferencePipeline, keep: tuple[int, int]) -> None:
        if self.interval is None:
            return
        predictor = make_predictor(self.predictor) if self.predictor else None
        if self.placed:
            skipcache.accelerate(pipe, interval=self.interval, predictor=predictor)
        else:
            skipcache.accelerate(pipe, policy=skipcache.Interval(self.interval), keep=keep, predictor=predictor)


def telling(intervals: Iterable[int]) -> list[int]:
    """The two intervals that pictures show: the one nearest 3, and the largest."""
    cached = sorted(n for n in intervals if n > 1)
    return sorted({min(cached, key=lambda n: abs(n - 3)), cached[-1]}) if cached else []


def groups(settings: BenchSettings) -> list[list[Variant]]:
    """Interval 1, which shows the overhead; then for each interval what people type, and the paper's rule with its
    predictors. All of a group but the first one have a rival."""
    found = [[Variant(settings.steps, interval=1)]]
    for n in sorted(set(settings.intervals) - {1}):
        found.append([Variant(settings.steps, n, placed=True)])
        found.append([Variant(settings.steps, n, predictor) for predictor in settings.predictors])
    return found


def rival_steps(blocks: int, depth: int, calls: Callable[[int], int]) -> int:
    """Sampler steps that give the plain model, of `depth` blocks, so many block evaluations, or a few more.

    `calls(steps)` is how often a run of so many sampler steps calls the denoiser.
    """
    steps = 1
    while calls(steps) * depth < blocks:
        steps += 1
    return steps
