"""What a run of a pipeline costs: seconds of the whole and of each step, waits for the device."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skipcache.benchmarks.sampling.pipelines import DenoiserPipeline


class TimedPipeline(DenoiserPipeline):
    """Samples one batch without guidance arithmetic, in one go or step by step.

    Attributes:
        time_unit: the model is given the timestep over this.
        clock: tells seconds; of the wall's clock, or of the CPU's time.
    """

    time_unit = 1
    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def begin(self, x: Tensor, conditions: dict[str, Any], steps: int) -> None:
        """The next `advance` is the first of so many steps."""
        self._x, self._conditions = x, conditions
        self._dtype = self.transformer.dtype  # read once: it walks over all parameters
        self.scheduler.set_timesteps(steps, device=x.device)
        self._times = iter(self.scheduler.timesteps)

    @torch.no_grad()
    def advance(self) -> tuple[float, float]:
        """One step; (seconds of the model's call, seconds of the step). The device has finished before and after."""
        t = next(self._times)
        marks = [self._now()]
        output = self._call(t)
        marks.append(self._now())
        self._step(output, t)
        return marks[1] - marks[0], self._now() - marks[0]

    @torch.no_grad()
    def denoise(self, x: Tensor, conditions: dict[str, Any], steps: int) -> float:
        """Seconds of a run in which the host never waits for the device; it has finished at the end."""
        self.begin(x, conditions, steps)
        start = self._now()
        for t in self._times:
            self._step(self._call(t), t)
        self._x.cpu()
        return self._now() - start

    def _call(self, t: Tensor) -> Tensor:
        timestep = t.expand(len(self._x))
        if self.time_unit != 1:
            timestep = timestep / self.time_unit
        sample = self._x.to(self._dtype)
        output: Tensor = self.transformer(sample, timestep=timestep, **self._conditions, return_dict=False)[0]
        return output

    def _step(self, output: Tensor, t: Tensor) -> None:
        self._x = self.scheduler.step(output[:, : self._x.shape[1]].float(), t, self._x).prev_sample

    def _now(self) -> float:
        if self._x.device.type != "cpu":
            getattr(torch, self._x.device.type).synchronize()
        return self.clock()


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
