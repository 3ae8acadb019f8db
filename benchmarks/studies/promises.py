"""`skipcache promises`: how often the errors that a calibration promises are kept, on seeds and prompts it never saw.

A calibration is made on a few samples and checked on others. Then new ones are drawn, cached and uncached, with the
guidance scale of the calibration and with another one, for which nothing is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import skipcache
from skipcache.benchmarks.names.schedulers import USUAL_STEPS
from skipcache.benchmarks.options.studies import PromisesSettings
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import new_table

LEVELS = (0.8, 0.9, 0.95)
AT_ONCE = 40  # samples of one call
OTHER = 1.5  # times the calibration's guidance scale
FIRST_CHECKED, FIRST_NEW, FIRST_OTHER = 1_000, 2_000, 3_000  # seeds


@dataclass(frozen=True)
class Promise:
    """`bound` is what the share `level` of new samples was to stay below; `kept` is the share that did."""

    level: float
    bound: float
    kept: float
    kept_at_other_guidance: float


@dataclass(frozen=True)
class Found:
    """A calibration, what it promised and what came of it. `expected` is its own error, on its own samples."""

    model: str
    scheduler: str
    steps: int
    full_steps: int
    speedup: float
    expected: float
    promises: tuple[Promise, ...]


def run_promises(settings: PromisesSettings, console: Console) -> Path:
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    with progress_bar(console, total=len(settings.models)) as bar:
        for name in settings.models:
            bar.say(name)
            found.append(_found(find_reference(name), settings))
            bar.advance()
    path = settings.out / "promises.json"
    write_json(path, settings, {"models": [asdict(one) for one in found]})
    console.print(_table(found))
    console.print(f"wrote {path}", highlight=False)
    return path


def _found(reference: Reference, settings: PromisesSettings) -> Found:
    pipe, scheduler = reference.pipeline(reference.load()), reference.usual_scheduler
    steps = USUAL_STEPS[scheduler]

    def sample(first: int, count: int, scale: float = settings.guidance) -> list[Tensor]:
        return list(_batches(reference, pipe, first, count, steps, scale))

    calibration = skipcache.calibrate(
        pipe,
        lambda: sample(0, settings.batch),
        speedup=settings.speedup,
        check=lambda: sample(FIRST_CHECKED, settings.checked),
        progress=False,
    )
    usual = _errors(pipe, calibration, lambda: sample(FIRST_NEW, settings.new))
    other = _errors(pipe, calibration, lambda: sample(FIRST_OTHER, settings.new, OTHER * settings.guidance))
    promises = tuple(
        Promise(level, bound, _below(usual, bound), _below(other, bound))
        for level, bound in ((level, calibration.bound(level)) for level in LEVELS)
    )
    full_steps, speedup = len(calibration.full_steps), calibration.speedup
    return Found(reference.name, scheduler, steps, full_steps, speedup, calibration.error, promises)


def _batches(reference: Reference, pipe: Any, first: int, count: int, steps: int, scale: float) -> Iterator[Tensor]:
    """`count` samples, each call with a seed and with prompts of its own."""
    data = reference.data()
    for seed, start in enumerate(range(0, count, AT_ONCE), first):
        size = min(AT_ONCE, count - start)
        labels = torch.randint(0, data.classes, (size,), generator=torch.Generator().manual_seed(seed))
        yield pipe(data, labels, steps=steps, guidance=scale, seed=seed)


def _errors(pipe: Any, calibration: skipcache.Calibration, samples: Callable[[], list[Tensor]]) -> Tensor:
    """By sample, how far the cached one is from the uncached one, over its size."""
    plain = torch.cat(samples()).flatten(1)
    with skipcache.accelerated(pipe, calibration=calibration):
        cached = torch.cat(samples()).flatten(1)
    return (cached - plain).norm(dim=1) / plain.norm(dim=1)


def _below(errors: Tensor, bound: float) -> float:
    return float((errors <= bound).double().mean())


def _table(found: list[Found]) -> Table:
    table = new_table("share of new samples that kept the promised error", gap=1)
    for column in ("", "full", "90% bound", *(f"{level:.0%}" for level in LEVELS), f"90%, {OTHER:g}x guidance"):
        table.add_column(column, no_wrap=True)
    for one in found:
        usual = next(promise for promise in one.promises if promise.level == LEVELS[1])
        kept = [f"{promise.kept:.1%}" for promise in one.promises]
        about = (f"{one.model}, {one.scheduler} {one.steps}", str(one.full_steps), f"{usual.bound:.4f}")
        table.add_row(*about, *kept, f"{usual.kept_at_other_guidance:.1%}")
    return table
