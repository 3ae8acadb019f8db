"""`skipcache bench --preset`: speed alone, of a denoiser of real size, for both engines."""

from __future__ import annotations

import re
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.presets import ALL, Preset
from skipcache.benchmarks.results import describe_device, write_json
from skipcache.benchmarks.sampling import make_scheduler, usable_device
from skipcache.benchmarks.settings import PresetSettings
from skipcache.benchmarks.table import new_table


class PresetPipeline(diffusers.DiffusionPipeline):
    """DDIM over one batch, without guidance arithmetic; `denoise` returns when the device has finished."""

    transformer: Any
    scheduler: Any

    def __init__(self, transformer: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def denoise(self, x: Tensor, conditions: dict[str, Any], steps: int) -> Tensor:
        self.scheduler.set_timesteps(steps, device=x.device)
        for t in self.scheduler.timesteps:
            sample = x.to(self.transformer.dtype)
            output = self.transformer(sample, timestep=t.expand(len(x)), **conditions, return_dict=False)[0]
            x = self.scheduler.step(output.chunk(2, dim=1)[0].float(), t, x).prev_sample
        return x.cpu()


@dataclass(frozen=True)
class PresetRow:
    """An engine at an interval, against the plain model as it is or, for a compiled engine, compiled.

    Memory is in bytes, at its peak during a run; it and the synchronisations are None but on cuda.
    """

    label: str
    against: str
    interval: int
    engine: str
    speedup: float
    ratios: tuple[float, ...]
    ideal: float | None
    of_ideal: float | None
    peak_memory: int | None
    plain_peak_memory: int | None
    syncs_per_step: float | None
    plain_syncs_per_step: float | None
    plain_seconds_per_step: float


class PresetBench:
    """Plain and accelerated pipelines of one model, which share its weights."""

    def __init__(self, settings: PresetSettings) -> None:
        self.settings = settings
        self.device = usable_device(settings.device)
        self.small = self.device.type == "cpu"
        self.preset: Preset = ALL[settings.preset]
        self.batch = settings.batch or (2 if self.small else self.preset.batch)
        self.dtype = settings.dtype or ("bfloat16" if self.device.type == "cuda" else "float32")
        self.model = self.preset.build(self.device, getattr(torch, self.dtype), self.small)
        self.inputs = self.preset.inputs(self.model, self.batch)

    def rows(self) -> Iterator[PresetRow]:
        backend = self.settings.compile
        plain = self._pipeline()
        compiled = plain if backend is None else self._pipeline()
        if backend is not None:
            compiled.transformer.compile(backend=backend)
        for interval in self.settings.intervals:
            yield self._row("hooks", interval, plain, None)
            yield self._row("fx", interval, compiled, backend)

    def _pipeline(self) -> PresetPipeline:
        """Around a copy of the model with the same weights in memory."""
        shared = {id(x): x for x in (*self.model.parameters(), *self.model.buffers())}
        return PresetPipeline(deepcopy(self.model, shared), make_scheduler("ddim"))

    def _row(self, engine: str, interval: int, plain: PresetPipeline, backend: str | None) -> PresetRow:
        other, steps = self._pipeline(), self.settings.steps
        options: Any = False if backend is None else {"backend": backend}
        skipcache.accelerate(other, interval, keep=self.settings.keep, engine=engine, compile=options)
        for pipe in (plain, other):
            self._run(pipe, min(steps, 2 * interval + 2))
        skipcache.reset(other)
        pairs = [self._pair(plain, other, plain_first=i % 2 == 0) for i in range(self.settings.rounds)]
        ratios = tuple(one / two for one, two in pairs)
        speedup = statistics.median(ratios)
        memory, plain_memory = self._peak(other), self._peak(plain)
        syncs, plain_syncs = self._syncs(other), self._syncs(plain)
        report = skipcache.report(other)
        ideal = report.ideal_speedup
        name = "plain" if backend is None else f"plain, {backend}"
        return PresetRow(
            f"interval {interval}, {engine}{'' if backend is None else f', {backend}'}",
            name,
            interval,
            report.engine,
            speedup,
            ratios,
            ideal,
            None if ideal is None else speedup / ideal,
            memory,
            plain_memory,
            syncs,
            plain_syncs,
            statistics.median(one for one, _ in pairs) / steps,
        )

    def _pair(self, plain: PresetPipeline, other: PresetPipeline, plain_first: bool) -> tuple[float, float]:
        """Seconds of the plain model, and of the other."""
        steps = self.settings.steps
        if plain_first:
            return self._run(plain, steps), self._run(other, steps)
        seconds = self._run(other, steps)
        return self._run(plain, steps), seconds

    def _run(self, pipe: PresetPipeline, steps: int) -> float:
        noise, conditions = self.inputs
        start = time.perf_counter()
        pipe.denoise(noise, conditions, steps)
        return time.perf_counter() - start

    def _peak(self, pipe: PresetPipeline) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        self._run(pipe, self.settings.steps)
        return int(torch.cuda.max_memory_allocated(self.device))

    def _syncs(self, pipe: PresetPipeline) -> float | None:
        """Waits of the host for the device by step, those of the sampler among them; the last one is the result's."""
        if self.device.type != "cuda":
            return None
        with counted_syncs() as messages:
            self._run(pipe, self.settings.steps)
        return (sum("synchronizing" in str(m.message) for m in messages) - 1) / self.settings.steps


@contextmanager
def counted_syncs() -> Iterator[list[Any]]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield messages
        finally:
            torch.cuda.set_sync_debug_mode(before)


def run_presets(settings: PresetSettings, console: Console) -> Path:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    bench = PresetBench(settings)
    rows = list(bench.rows())
    name = _slug(torch.cuda.get_device_name(bench.device)) if bench.device.type == "cuda" else bench.device.type
    folder = settings.results or (settings.out if bench.small else Path("benchmarks") / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{settings.preset}{'' if settings.compile is None else '-compile'}.json"
    facts: dict[str, Any] = {
        "batch": bench.batch,
        "dtype": bench.dtype,
        "reduced": bench.preset.reduction() if bench.small else None,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "device": describe_device(str(bench.device)),
    }
    write_json(path, settings, facts | {"rows": [asdict(row) for row in rows]})
    console.print(_table(rows, f"{settings.preset}, {settings.steps} DDIM steps, batch {bench.batch}, {bench.dtype}"))
    console.print(
        f"{facts['parameters'] / 1e6:.1f} M random weights on {facts['device']['name']}; speedup is the median of "
        f"{settings.rounds} pairs of runs.",
        highlight=False,
    )
    if bench.small:
        changes = ", ".join(f"{key}={value}" for key, value in bench.preset.reduction().items())
        console.print(f"reduced on the CPU, not of real size: {changes}", highlight=False)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return path


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _table(rows: list[PresetRow], title: str) -> Table:
    table = new_table(title, gap=1)
    table.add_column("", no_wrap=True)
    for column in ("speedup", "over", "ideal", "of ideal", "peak MiB", "plain", "syncs/step", "plain"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.label,
            f"{row.speedup:.2f}x",
            row.against,
            _cell(row.ideal, "{:.2f}x"),
            _cell(row.of_ideal, "{:.2f}"),
            _cell(row.peak_memory, "{:.0f}", 2**20),
            _cell(row.plain_peak_memory, "{:.0f}", 2**20),
            _cell(row.syncs_per_step, "{:.2f}"),
            _cell(row.plain_syncs_per_step, "{:.2f}"),
        )
    return table


def _cell(value: float | None, form: str, unit: int = 1) -> str:
    return "-" if value is None else form.format(value / unit)
