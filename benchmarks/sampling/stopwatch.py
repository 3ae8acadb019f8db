"""What a run of a pipeline costs: seconds of the whole and of each step, memory at its peak, waits for the device."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skipcache.benchmarks.sampling.pipelines import DenoiserPipeline


class Stopwatch:
    """Marks the start and the end of each step; on cuda by events on the device, so that the host never waits."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self._on_device:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step, when the device has finished."""
        pairs = zip(self._marks[::2], self._marks[1::2])
        return [a.elapsed_time(b) / 1000 if self._on_device else b - a for a, b in pairs]


class TimedPipeline(DenoiserPipeline):
    """Samples one batch without guidance arithmetic; `denoise` returns when the device has finished."""

    @torch.no_grad()
    def denoise(self, x: Tensor, conditions: dict[str, Any], steps: int) -> list[float]:
        """Seconds of each call of the model."""
        watch, dtype = Stopwatch(x.device), self.transformer.dtype  # read once: it walks over all parameters
        self.scheduler.set_timesteps(steps, device=x.device)
        for t in self.scheduler.timesteps:
            sample, timestep = x.to(dtype), t.expand(len(x))
            watch.mark()
            output = self.transformer(sample, timestep=timestep, **conditions, return_dict=False)[0]
            watch.mark()
            x = self.scheduler.step(output[:, : x.shape[1]].float(), t, x).prev_sample
        x.cpu()
        return watch.seconds()


@contextmanager
def garbage_kept() -> Iterator[None]:
    """As `timeit` has it: a collection takes as long as many steps of a small model, and falls on whichever."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def counted_syncs() -> Iterator[list[Any]]:
    """The waits of the host for a cuda device, as warnings."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield messages
        finally:
            torch.cuda.set_sync_debug_mode(before)
