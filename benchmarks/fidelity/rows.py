"""What was measured, as plain data: the rows of the table, and `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skipcache.benchmarks.fidelity.pairs import Measured
from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.sampling.metrics import class_accuracy, compare
from skipcache.benchmarks.show.json_file import describe_device, write_json


@dataclass(frozen=True)
class Row:
    """A line of the table. `psnr` is None where samples cannot be compared, and where they are equal (`exact`)."""

    label: str
    group: int  # the interval, or for a plain rival the interval whose block evaluations it has
    interval: int | None
    predictor: str | None
    steps: int
    full_steps: int
    cached_steps: int
    blocks: int
    full_at: tuple[int, ...]
    speedup: float
    ratios: tuple[float, ...]
    ideal: float
    of_ideal: float
    psnr: float | None
    psnr_error: float | None
    ssim: float | None
    exact: bool
    class_accuracy: float
    cache_bytes: int
    placed: bool = False  # of `accelerate(pipe, interval=n)`, or its rival
    notes: tuple[str, ...] = ()  # of its report


def make_row(measured: Measured, judge: nn.Module, labels: Tensor, settings: BenchSettings) -> Row:
    variant = measured.variant
    fidelity = compare(measured.samples, measured.plain).row()
    if variant.interval is None and settings.scheduler in STOCHASTIC:
        fidelity = {"psnr": None, "psnr_error": None, "ssim": None, "exact": False}
    return Row(
        label=variant.label,
        group=variant.group,
        interval=variant.interval,
        predictor=variant.predictor,
        steps=variant.steps,
        full_steps=measured.full_steps,
        cached_steps=measured.cached_steps,
        blocks=measured.blocks,
        full_at=measured.full_at,
        speedup=measured.speedup,
        ratios=measured.ratios,
        ideal=measured.ideal,
        of_ideal=measured.speedup / measured.ideal,
        class_accuracy=class_accuracy(judge, measured.samples, labels),
        cache_bytes=measured.cache_bytes,
        placed=variant.placed,
        notes=measured.notes,
        **fidelity,
    )


def plain_row(measured: Measured, judge: nn.Module, labels: Tensor, calls: int, blocks: int) -> Row:
    """The uncached run that all others are compared with."""
    return Row(
        label=f"plain, {measured.variant.steps} steps",
        group=0,
        interval=None,
        predictor=None,
        steps=measured.variant.steps,
        full_steps=calls,
        cached_steps=0,
        blocks=calls * blocks,
        full_at=tuple(range(calls)),
        speedup=1.0,
        ratios=(),
        ideal=1.0,
        of_ideal=1.0,
        psnr=None,
        psnr_error=None,
        ssim=1.0,
        exact=True,
        class_accuracy=class_accuracy(judge, measured.plain, labels),
        cache_bytes=0,
    )


def write_results(path: Path, settings: BenchSettings, rows: Sequence[Row], **facts: Any) -> None:
    """The first row is the plain model; `facts` are numbers about the run as a whole."""
    write_json(path, settings, {"device": describe_device(settings.device), **facts, "rows": [asdict(r) for r in rows]})
