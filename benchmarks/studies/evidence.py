"""`skipcache evidence`: do skip branches cache better? Fidelity by interval, predictor and keep; uncached quality."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import skipcache
from skipcache.benchmarks.names.predictors import label_of, make_predictor
from skipcache.benchmarks.options.studies import EvidenceSettings
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.metrics import FrechetDistance, class_accuracy, compare
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import new_table


@dataclass(frozen=True)
class Kept:
    """PSNR in dB of a model's cached samples against its own uncached ones, by seed, at one setting."""

    model: str
    keep: int
    predictor: str
    interval: int
    psnr: tuple[float, ...]
    class_accuracy: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.psnr)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds."""
        return statistics.stdev(self.psnr) if len(self.psnr) > 1 else 0.0


@dataclass(frozen=True)
class Quality:
    """Of uncached samples: share of the class asked for, and Frechet distance to the real data by seed."""

    model: str
    images: int
    class_accuracy: float
    frechet: tuple[float, ...]


def run_evidence(settings: EvidenceSettings, console: Console) -> Path:
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    kept: list[Kept] = []
    quality: list[Quality] = []
    total = len(settings.models) * (_settings_of_one(settings) + bool(settings.images))
    with progress_bar(console, total=total) as bar:
        for name in settings.models:
            reference = find_reference(name)
            pipe = reference.pipeline(reference.load())
            bar.say(name)
            for row in _fidelity(reference, pipe, settings):
                kept.append(row)
                bar.advance()
            if settings.images:
                quality.append(_quality(reference, pipe, settings))
                bar.advance()
    path = settings.out / "evidence.json"
    write_json(path, settings, {"fidelity": [asdict(row) for row in kept], "quality": [asdict(row) for row in quality]})
    console.print(*_fidelity_tables(kept, settings), *([_quality_table(quality)] if quality else []), sep="\n")
    console.print(f"wrote {path}", highlight=False)
    return path


def _settings_of_one(settings: EvidenceSettings) -> int:
    return len(settings.keep) * len(settings.predictors) * len(settings.intervals)


def _fidelity(reference: Reference, pipe: ReferencePipeline, settings: EvidenceSettings) -> Iterator[Kept]:
    data, judge = reference.data(), reference.judge()
    labels = balanced(settings.batch, data.classes)

    def run(seed: int) -> Tensor:
        return pipe(data, labels, steps=settings.steps, guidance=settings.guidance, seed=seed)

    uncached = {seed: run(seed) for seed in settings.seeds}
    for keep in settings.keep:
        for predictor in settings.predictors:
            for interval in settings.intervals:
                policy = skipcache.Interval(interval)
                with skipcache.accelerated(pipe, policy=policy, keep=keep, predictor=make_predictor(predictor)):
                    samples = {seed: run(seed) for seed in settings.seeds}
                psnr = tuple(compare(samples[seed], uncached[seed]).psnr for seed in settings.seeds)
                right = statistics.fmean(class_accuracy(judge, x, labels) for x in samples.values())
                yield Kept(reference.name, keep, predictor, interval, psnr, right)


def _quality(reference: Reference, pipe: ReferencePipeline, settings: EvidenceSettings) -> Quality:
    """At guidance 1, where the model draws from the data's distribution; more guidance sharpens it."""
    data, judge = reference.data(), reference.judge()
    labels = balanced(settings.images, data.classes)
    frechet, distances, right = FrechetDistance(judge, data.samples), [], []
    for seed in settings.seeds[:2]:
        parts = [
            pipe(data, part, steps=settings.steps, guidance=1.0, seed=1000 * seed + i)
            for i, part in enumerate(labels.split(100))
        ]
        distances.append(frechet(torch.cat(parts)))
        right.append(class_accuracy(judge, torch.cat(parts), labels))
    return Quality(reference.name, settings.images, statistics.fmean(right), tuple(distances))


def _fidelity_tables(rows: list[Kept], settings: EvidenceSettings) -> list[Table]:
    tables = []
    for keep in settings.keep:
        title = f"keep {keep}: PSNR in dB against the model's own uncached samples ± deviation over seeds"
        table = new_table(title, gap=1)
        table.add_column("", no_wrap=True)
        for interval in settings.intervals:
            table.add_column(f"interval {interval}", justify="right", no_wrap=True)
        for predictor in settings.predictors:
            for model in settings.models:
                found = [row for row in rows if (row.model, row.keep, row.predictor) == (model, keep, predictor)]
                cells = (f"{row.mean:.1f} ± {row.spread:.1f}" for row in found)
                table.add_row(f"{model}, {label_of(predictor)}", *cells)
        tables.append(table)
    return tables


def _quality_table(rows: list[Quality]) -> Table:
    table = new_table("uncached, guidance 1", gap=1)
    for column in ("", "images", "class accuracy", "Frechet distance by seed"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        distances = " ".join(f"{x:.2f}" for x in row.frechet)
        table.add_row(row.model, str(row.images), f"{row.class_accuracy:.1%}", distances)
    return table
