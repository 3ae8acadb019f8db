"""`skipcache default`: does `accelerate(pipe, interval=n)` keep more than a plain run of fewer sampler steps?

The rival has as many block evaluations. Where it draws noise on each step (DDPM) it draws other noise, so that its
samples differ for that reason alone; such rows are left out of the mean.
"""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

import skipcache
from skipcache.benchmarks.names.schedulers import STOCHASTIC, USUAL_STEPS
from skipcache.benchmarks.options.studies import DefaultSettings
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.tables import new_table
from skipcache.benchmarks.studies.cells import measure_cells

SHORT_BY = -0.5  # dB: what a setting's noise explains


@dataclass(frozen=True)
class Cell:
    """PSNR in dB against the plain model's samples of the same seeds, by seed.

    Attributes:
        full_steps: calls of the model in full; samplers of second order call it twice a step.
        fewer: of the plain model with as many calls, or one more.
        uniform: of `policy=Interval(n)`, and `uniform_blocks` its share of block evaluations.
        warned: the run said at its first step that it might fall short.
    """

    model: str
    scheduler: str
    steps: int
    interval: int
    full_steps: int
    psnr: tuple[float, ...]
    fewer: tuple[float, ...]
    uniform: tuple[float, ...]
    uniform_blocks: float
    warned: bool

    @property
    def margin(self) -> float:
        return statistics.fmean(self.psnr) - statistics.fmean(self.fewer)


def run_default(settings: DefaultSettings, console: Console) -> Path:
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    cells = measure_cells(settings, _measured, console)
    path = settings.out / "default.json"
    write_json(path, settings, {"cells": [{**asdict(cell), "margin": cell.margin} for cell in cells]})
    console.print(_table(cells))
    console.print(f"{_summary(cells)}\nwrote {path}", highlight=False)
    return path


def _measured(reference: Reference, scheduler: str, settings: DefaultSettings) -> Iterator[Cell]:
    pipe, data = reference.pipeline(reference.load(), scheduler), reference.data()
    labels = balanced(settings.batch, data.classes)
    whole = settings.steps or USUAL_STEPS[scheduler]
    plain: dict[int, list[Tensor]] = {}

    def sample(steps: int) -> list[Tensor]:
        return [pipe(data, labels, steps=steps, guidance=settings.guidance, seed=seed) for seed in settings.seeds]

    def kept(samples: list[Tensor]) -> tuple[float, ...]:
        return tuple(compare(x, truth).psnr for x, truth in zip(samples, plain[whole]))

    plain[whole] = sample(whole)
    for interval in settings.intervals:
        with skipcache.accelerated(pipe, interval=interval), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            samples, report = sample(whole), skipcache.report(pipe)
        full = len(report.full_at)
        with skipcache.accelerated(pipe, policy=skipcache.Interval(interval)):
            uniform, other = sample(whole), skipcache.report(pipe)
        rival = _steps_of(pipe.scheduler, full)
        if rival not in plain:
            plain[rival] = sample(rival)
        share = other.blocks_run / (other.blocks_run + other.blocks_saved)
        about = (reference.name, scheduler, whole, interval, full)
        warned = any(str(one.message).startswith("skipcache: ") for one in said)
        yield Cell(*about, kept(samples), kept(plain[rival]), kept(uniform), share, warned)


def _steps_of(scheduler: Any, calls: int) -> int:
    """Sampler steps of a run that calls the model so often, or once more."""
    for steps in itertools.count(1):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) >= calls:
            break
    return steps


def _table(cells: list[Cell]) -> Table:
    table = new_table("PSNR in dB against the plain model; ! marks runs that warned at their first step", gap=1)
    for column in ("", "interval", "full steps", "interval=", "fewer steps", "margin", "policy=Interval"):
        table.add_column(column, no_wrap=True)
    for cell in cells:
        table.add_row(
            f"{cell.model}, {cell.scheduler} {cell.steps}",
            str(cell.interval),
            f"{cell.full_steps}{'!' if cell.warned else ''}",
            f"{statistics.fmean(cell.psnr):.1f}",
            f"{statistics.fmean(cell.fewer):.1f}",
            f"{cell.margin:+.1f}",
            f"{statistics.fmean(cell.uniform):.1f} ({cell.uniform_blocks:.0%} of blocks)",
        )
    return table


def _summary(cells: list[Cell]) -> str:
    margins = [cell.margin for cell in cells if cell.scheduler not in STOCHASTIC and math.isfinite(cell.margin)]
    if not margins:
        return "no sampler here can be compared with fewer steps"
    short = sum(margin < SHORT_BY for margin in margins)
    return (
        f"margin over fewer steps: mean {statistics.fmean(margins):+.1f} dB, least {min(margins):+.1f} dB, "
        f"{short} of {len(margins)} cells short (without {', '.join(STOCHASTIC)}, whose noise differs)"
    )
