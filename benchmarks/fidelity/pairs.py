"""Runs variants and the plain pipeline in pairs. Every run is timed, and the samples of every run count.

Plain and variant alternate, and so does which of them goes first, because a shared machine drifts by more
than what is measured; the speedup is the median of the pairs' ratios.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import skipcache
from skipcache.benchmarks.fidelity.variants import Variant
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.references.data.dataset import Data, balanced
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass(frozen=True)
class Measured:
    """Samples of a variant and of the plain model, of all seeds, and what the variant cost; counts are per run."""

    variant: Variant
    samples: Tensor
    plain: Tensor
    ratios: tuple[float, ...]  # seconds of plain over seconds of the variant, by pair
    full_steps: int
    cached_steps: int
    blocks: int
    full_at: tuple[int, ...]
    ideal: float
    cache_bytes: int
    notes: tuple[str, ...] = ()  # what the variant's report says beside

    @property
    def speedup(self) -> float:
        return statistics.median(self.ratios)


class Bench:
    """Two pipelines with the same weights: one stays plain, the other takes the variants in turn."""

    def __init__(self, plain: ReferencePipeline, other: ReferencePipeline, data: Data, settings: BenchSettings) -> None:
        self.plain, self.other, self.data, self.settings = plain, other, data, settings
        self.stack = skipcache.find_stack(plain.transformer)
        self.labels = balanced(settings.batch, data.classes)
        self.plain_times: list[float] = []

    def measure(self, variant: Variant, on_run: Callable[[], None]) -> Measured:
        variant.attach(self.other, self.settings.keep)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "skipcache: ")  # what they say is printed below the table
                self._warm_up(variant)
                return self._summary(variant, self._pairs(variant, on_run))
        finally:
            if variant.interval is not None:
                skipcache.restore(self.other)

    def _pairs(self, variant: Variant, on_run: Callable[[], None]) -> list[tuple[Tensor, Tensor, float]]:
        pairs = []
        for turn, seed in enumerate(self.settings.seeds):
            pairs.append(self._pair(variant, seed, plain_first=turn % 2 == 0))
            on_run()
        return pairs

    def _warm_up(self, variant: Variant) -> None:
        steps = min(variant.steps, 2 * (variant.interval or 1) + 2)
        self._run(self.plain, steps, 0)
        self._run(self.other, steps, 0)
        if variant.interval is not None:
            skipcache.reset(self.other)

    def _pair(self, variant: Variant, seed: int, plain_first: bool) -> tuple[Tensor, Tensor, float]:
        """(plain samples, the variant's samples, ratio of their times)."""
        runs = [(self.plain, self.settings.steps), (self.other, variant.steps)]
        taken = [self._run(*run, seed) for run in (runs if plain_first else reversed(runs))]
        (plain, plain_time), (samples, variant_time) = taken if plain_first else reversed(taken)
        self.plain_times.append(plain_time)
        return plain, samples, plain_time / variant_time

    def _run(self, pipe: ReferencePipeline, steps: int, seed: int) -> tuple[Tensor, float]:
        """Samples arrive on the CPU, so the clock stops after the device has finished."""
        start = time.perf_counter()
        samples = pipe(self.data, self.labels, steps=steps, guidance=self.settings.guidance, seed=seed)
        return samples, time.perf_counter() - start

    def calls(self, steps: int) -> int:
        """Calls of the denoiser in a run: more than the steps for second-order samplers."""
        self.plain.scheduler.set_timesteps(steps)
        return len(self.plain.scheduler.timesteps)

    def _summary(self, variant: Variant, pairs: list[tuple[Tensor, Tensor, float]]) -> Measured:
        plain, samples, ratios = zip(*pairs)
        runs = len(pairs)
        calls = self.calls(variant.steps)
        if variant.interval is None:
            full, cached, blocks, full_at = calls, 0, calls * len(self.stack.blocks), tuple(range(calls))
            ideal, held, notes = self.calls(self.settings.steps) / calls, 0, ()
        else:
            report = skipcache.report(self.other)
            full, cached, blocks = (n // runs for n in (report.full_steps, report.cached_steps, report.blocks_run))
            full_at, ideal, held = tuple(report.full_at), report.ideal_speedup, report.cache_bytes
            notes = report.reasons
        counts = full, cached, blocks, full_at, ideal, held, notes
        return Measured(variant, torch.cat(samples), torch.cat(plain), ratios, *counts)
