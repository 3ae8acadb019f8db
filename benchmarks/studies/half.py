"""`skipcache half`: the default in half precision, beside the plain model in half precision.

The rival keeps R = D - H and forecasts in float32, which takes twice the memory. Both are compared with the plain model
of that precision, which itself is compared with the plain model in float32.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.names.schedulers import USUAL_STEPS
from skipcache.benchmarks.options.studies import HalfSettings
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.tables import new_table
from skipcache.benchmarks.studies.cells import measure_cells


@dataclass(frozen=True)
class InFloat32(skipcache.Damped):
    """`Damped` that keeps R in float32, and rounds D-hat alone."""

    def remember(self, feature: Any, kept: Sequence[Any], full_steps: Sequence[int]) -> Sequence[Any]:
        return super().remember(tuple(x.float() for x in feature), kept, full_steps)

    def predict(self, H: Any, kept: Sequence[Any], weights: Sequence[float]) -> Any:
        return tuple(d.to(h.dtype) for d, h in zip(super().predict(H, kept, weights), H))


@dataclass(frozen=True)
class Cell:
    """PSNR in dB by seed.

    Attributes:
        psnr: of the default, against the plain model in half precision; `wide` of `InFloat32`.
        precision: of the plain model in half precision, against that in float32.
        float32: of the default in float32, against the plain model in float32.
    """

    model: str
    scheduler: str
    steps: int
    interval: int
    full_steps: int
    psnr: tuple[float, ...]
    wide: tuple[float, ...]
    precision: tuple[float, ...]
    float32: tuple[float, ...]


def run_half(settings: HalfSettings, console: Console) -> Path:
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a run may keep less than fewer steps do is no matter here
        cells = measure_cells(settings, _measured, console)
    path = settings.out / "half.json"
    write_json(path, settings, {"cells": [asdict(cell) for cell in cells]})
    console.print(_table(cells, settings.dtype))
    console.print(f"wrote {path}", highlight=False)
    return path


def _measured(reference: Reference, scheduler: str, settings: HalfSettings) -> Iterator[Cell]:
    dtype, data = getattr(torch, settings.dtype), reference.data()
    labels, steps = balanced(settings.batch, data.classes), settings.steps or USUAL_STEPS[scheduler]
    whole = reference.pipeline(reference.load(), scheduler)
    half = reference.pipeline(nn.Module.to(reference.load(), dtype=dtype), scheduler)

    def sample(pipe: Any) -> list[Tensor]:
        return [pipe(data, labels, steps=steps, guidance=settings.guidance, seed=seed) for seed in settings.seeds]

    def kept(samples: list[Tensor], truths: list[Tensor]) -> tuple[float, ...]:
        return tuple(compare(x, truth).psnr for x, truth in zip(samples, truths))

    truth, plain = sample(whole), sample(half)
    for interval in settings.intervals:
        with skipcache.accelerated(half, interval=interval):
            samples, report = sample(half), skipcache.report(half)
        with skipcache.accelerated(half, interval=interval, predictor=InFloat32()):
            wide = sample(half)
        with skipcache.accelerated(whole, interval=interval):
            float32 = sample(whole)
        about = (reference.name, scheduler, steps, interval, len(report.full_at))
        yield Cell(*about, kept(samples, plain), kept(wide, plain), kept(plain, truth), kept(float32, truth))


def _table(cells: list[Cell], dtype: str) -> Table:
    table = new_table(f"PSNR in dB in {dtype}, against the plain model in {dtype}", gap=1)
    for column in (
        "",
        "interval",
        "full steps",
        "default",
        "R in float32",
        f"plain {dtype} v float32",
        "in float32",
    ):
        table.add_column(column, no_wrap=True)
    for cell in cells:
        found = (cell.psnr, cell.wide, cell.precision, cell.float32)
        table.add_row(
            f"{cell.model}, {cell.scheduler} {cell.steps}",
            str(cell.interval),
            str(cell.full_steps),
            *(f"{statistics.fmean(values):.1f}" for values in found),
        )
    return table
