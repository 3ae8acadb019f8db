"""`skipcache bench`: the main job, from a reference denoiser to a table, a JSON file and two pictures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import nn

import skipcache
from skipcache.benchmarks.fidelity.figures import draw_fidelity, draw_samples
from skipcache.benchmarks.fidelity.pairs import Bench, Measured
from skipcache.benchmarks.fidelity.rows import Row, make_row, plain_row, write_results
from skipcache.benchmarks.fidelity.tables import result_tables, rows_table
from skipcache.benchmarks.fidelity.variants import Variant, groups, rival_steps, telling
from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import wide

TABLE_WIDTH = 110


def run_bench(settings: BenchSettings, console: Console) -> None:
    start = time.perf_counter()
    reference = find_reference(settings.model)
    bench = make_bench(settings, reference)
    beside = None if settings.beside is None else Beside.of(settings)
    use_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    measured, others = _measure_all(bench, beside, console)
    rows = _rows(bench, measured, reference.judge())
    skips = [] if beside is None else _rows(beside.bench, others, beside.reference.judge())
    pictures = draw_samples(settings.out / "samples.png", measured, rows[1:])
    fidelity = settings.out / "fidelity.png"
    draw_fidelity(fidelity, rows[1:], _title(settings), settings.beside or "", skips[1:])
    facts = {
        "images": len(measured[0].samples),
        "parameters": sum(p.numel() for p in bench.plain.transformer.parameters()),
        "plain_seconds_per_run": statistics.median(bench.plain_times),
        "beside": [asdict(row) for row in skips],
        "pictures": [path.name for path in [*pictures, fidelity]],
        "seconds": time.perf_counter() - start,
    }
    write_results(settings.out / "results.json", settings, rows, **facts)
    shown = wide(console, TABLE_WIDTH)
    shown.print(result_tables(rows, _title(settings)))
    if skips:
        title = f"beside it: {settings.beside}, against its own uncached samples"
        shown.print(rows_table(skips, title))
    _print_summary(console, settings, rows, **facts)


@dataclass(frozen=True)
class Beside:
    """A second model in the same run, with Hold as the paper has it, at the interval nearest 3 and at the largest."""

    reference: Reference
    bench: Bench
    variants: list[Variant]

    @classmethod
    def of(cls, settings: BenchSettings) -> Beside:
        settings = replace(settings, model=settings.beside or "", weights=None, beside=None)
        reference = find_reference(settings.model)
        chosen = telling(settings.intervals) or [3]
        return cls(reference, make_bench(settings, reference), [Variant(settings.steps, n, "hold") for n in chosen])


def make_bench(settings: BenchSettings, reference: Reference) -> Bench:
    """Both pipelines. Settings that the library refuses are found here, before minutes are spent."""
    device = torch.device(settings.device)
    dtype = getattr(torch, settings.dtype)
    plain, other = (_pipeline(reference, settings, device, dtype) for _ in range(2))
    with skipcache.accelerated(other, policy=skipcache.Interval(max(settings.intervals)), keep=settings.keep):
        pass
    return Bench(plain, other, reference.data(), settings)


def _pipeline(
    reference: Reference, settings: BenchSettings, device: torch.device, dtype: torch.dtype
) -> ReferencePipeline:
    # nn.Module's `to`: that of diffusers warns of modules kept in float32 even where there are none.
    model = nn.Module.to(reference.load(settings.weights), device, dtype)
    return reference.pipeline(model, settings.scheduler)


def _measure_all(bench: Bench, beside: Beside | None, console: Console) -> tuple[list[Measured], list[Measured]]:
    to_do, others = groups(bench.settings), [] if beside is None else beside.variants
    rows = sum(map(len, to_do)) + len(to_do) - 1 + len(others)
    with progress_bar(console, total=rows * len(bench.settings.seeds)) as bar:

        def measure(which: Bench, variant: Variant) -> Measured:
            bar.say(variant.label)
            return which.measure(variant, bar.advance)

        measured: list[Measured] = []
        for group in to_do:
            found = [measure(bench, variant) for variant in group]
            measured += found
            if (first := group[0]).interval != 1:
                blocks = max(one.blocks for one in found)
                steps = rival_steps(blocks, len(bench.stack.blocks), bench.calls)
                measured.append(measure(bench, Variant(steps, matched=first.interval, placed=first.placed)))
        return measured, [] if beside is None else [measure(beside.bench, variant) for variant in others]


def _rows(bench: Bench, measured: list[Measured], judge: nn.Module) -> list[Row]:
    """The plain model first, then the variants."""
    settings = bench.settings
    labels = bench.labels.repeat(len(settings.seeds))
    plain = plain_row(measured[0], judge, labels, bench.calls(settings.steps), len(bench.stack.blocks))
    return [plain, *(make_row(m, judge, labels, settings) for m in measured)]


def _title(settings: BenchSettings) -> str:
    return (
        f"{settings.model}, {settings.steps} {settings.scheduler.upper()} steps, guidance {settings.guidance:g}, "
        f"{settings.dtype} on {settings.device}"
    )


def _print_summary(console: Console, settings: BenchSettings, rows: Sequence[Row], **facts: Any) -> None:
    costs = sorted(1 / ratio - 1 for row in rows if row.interval == 1 for ratio in row.ratios)
    noise = "" if settings.scheduler not in STOCHASTIC else "; it draws other noise, so its samples differ"
    console.print(
        f"{facts['images']} images; speedup is the median of {len(settings.seeds)} pairs of runs "
        f"({facts['plain_seconds_per_run']:.2f} s for {settings.batch} images uncached).\n"
        f"Interval(1) costs {statistics.median(costs):+.1%} (from {costs[0]:+.1%} to {costs[-1]:+.1%}).\n"
        "interval=n is what accelerate(pipe, interval=n) does, and Interval(n) the paper's rule with "
        f"keep={settings.keep[0]}, {settings.keep[1]}.\n"
        "PSNR and SSIM are against the uncached samples. In each group the last row is the plain model\n"
        f"at the block evaluations of the rows above it{noise}.\n"
        + "".join(f"{row.label}: {note}.\n" for row in rows for note in row.notes)
        + f"Took {facts['seconds']:.0f} s. Wrote results.json, {', '.join(facts['pictures'])} to {settings.out}/",
        highlight=False,
    )
