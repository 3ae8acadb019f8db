"""`skipcache engines`: time alone, of both engines, by the run and by the step.

The plain model, hooks and fx run in turns, and who goes first moves on from round to round, because a shared machine
drifts by more than what is measured. Every figure is a ratio within a round; what is shown is the median of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

import skipcache
from skipcache.benchmarks.engines.presets import find_preset
from skipcache.benchmarks.engines.tables import PresetRow, preset_table, result_name
from skipcache.benchmarks.names.predictors import label_of, make_predictor
from skipcache.benchmarks.options.engines import EnginesSettings
from skipcache.benchmarks.sampling.stopwatch import TimedPipeline, counted_syncs, garbage_kept
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import describe_device, write_json

ENGINES = ("hooks", "fx")


@dataclass(frozen=True)
class Run:
    """Seconds of a whole run, and those of the model at each step."""

    seconds: float
    steps: list[float]

    def typical(self, at: Sequence[int]) -> float:
        return median(self.steps[i] for i in at)


Rounds = list[dict[str, Run]]  # in each round a run of every pipeline, by name


class PresetBench:
    """Pipelines around one model that share its weights. With `compile` fx is compiled, and so is its plain rival."""

    def __init__(self, settings: EnginesSettings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        self.small = self.device.type == "cpu"
        self.preset = find_preset(settings.preset)
        self.batch = settings.batch or self.preset.batch_on(self.device)
        self.dtype = settings.dtype or ("bfloat16" if self.device.type == "cuda" else "float32")
        self.model = self.preset.build(self.device, getattr(torch, self.dtype), self.small)
        self.inputs = self.preset.inputs(self.model, self.batch)
        self.plain = {"plain": self._pipeline()}
        if settings.compile is not None:
            self.plain["compiled"] = self._pipeline()
            self.plain["compiled"].transformer.compile(backend=settings.compile)

    def rows(self) -> Iterator[PresetRow]:
        for predictor, interval in product(self.settings.predictors, self.settings.intervals):
            ours = {engine: self._accelerated(engine, interval, predictor) for engine in ENGINES}
            pipes = {**self.plain, **ours}
            first = {name: self._run(pipe, 3 * interval + 2).steps[0] for name, pipe in pipes.items()}
            _reset(ours)
            rounds = [self._round(pipes, turn) for turn in range(self.settings.rounds)]
            reports = {engine: skipcache.report(pipe) for engine, pipe in ours.items()}
            for engine, pipe in ours.items():
                _reset(ours)  # the other's cache is not to be counted into this one's memory
                yield self._row(engine, interval, predictor, pipe, rounds, reports[engine], first[engine])

    def _pipeline(self) -> TimedPipeline:
        """Around a copy of the model with the same weights in memory."""
        shared = {id(x): x for x in (*self.model.parameters(), *self.model.buffers())}
        return TimedPipeline(deepcopy(self.model, shared), self.preset.scheduler())

    def _accelerated(self, engine: str, interval: int, predictor: str) -> TimedPipeline:
        pipe, backend = self._pipeline(), self.settings.compile
        options: Any = {"backend": backend} if backend is not None and engine == "fx" else False
        chosen = make_predictor(predictor)
        policy = skipcache.Interval(interval)
        skipcache.accelerate(
            pipe, policy=policy, keep=self.settings.keep, predictor=chosen, engine=engine, compile=options
        )
        return pipe

    def _round(self, pipes: dict[str, TimedPipeline], turn: int) -> dict[str, Run]:
        names = list(pipes)
        start = turn % len(names)
        return {name: self._run(pipes[name], self.settings.steps) for name in (*names[start:], *names[:start])}

    def _run(self, pipe: TimedPipeline, steps: int) -> Run:
        noise, conditions = self.inputs
        with garbage_kept():
            start = time.perf_counter()
            of_steps = pipe.denoise(noise, conditions, steps)
            return Run(time.perf_counter() - start, of_steps)

    def _row(
        self,
        engine: str,
        interval: int,
        predictor: str,
        pipe: TimedPipeline,
        rounds: Rounds,
        report: skipcache.Report,
        first: float,
    ) -> PresetRow:
        rival = "compiled" if engine == "fx" and "compiled" in self.plain else "plain"
        steps = range(self.settings.steps)
        cached = [i for i in steps if i not in report.full_at]
        plain_step = median(r[rival].typical(steps) for r in rounds)
        ratios = tuple(r[rival].seconds / r[engine].seconds for r in rounds)
        memory, plain_memory = self._peak(pipe), self._peak(self.plain[rival])
        syncs, plain_syncs = self._syncs(pipe), self._syncs(self.plain[rival])
        backend = f", {self.settings.compile}" if rival == "compiled" else ""
        return PresetRow(
            label=f"interval {interval}, {label_of(predictor)}, {engine}{backend}",
            against=f"plain{backend}",
            interval=interval,
            predictor=predictor,
            engine=report.engine,
            speedup=median(ratios),
            ratios=ratios,
            ideal=report.ideal_speedup,
            first_step=first / plain_step,
            full_step=median(r[engine].typical(report.full_at) / r[rival].typical(steps) for r in rounds),
            cached_step=median(r[engine].typical(cached) / r[rival].typical(steps) for r in rounds),
            over_hooks=tuple(r["hooks"].typical(cached) / r[engine].typical(cached) for r in rounds),
            peak_memory=memory,
            plain_peak_memory=plain_memory,
            syncs_per_step=syncs,
            plain_syncs_per_step=plain_syncs,
            plain_seconds_per_step=plain_step,
        )

    def _peak(self, pipe: TimedPipeline) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        self._run(pipe, self.settings.steps)
        return int(torch.cuda.max_memory_allocated(self.device))

    def _syncs(self, pipe: TimedPipeline) -> float | None:
        """Synchronisations of host and device per step, the sampler's included; that of the result is left out."""
        if self.device.type != "cuda":
            return None
        with counted_syncs() as messages:
            self._run(pipe, self.settings.steps)
        return (sum("synchronizing" in str(m.message) for m in messages) - 1) / self.settings.steps


def _reset(pipes: dict[str, TimedPipeline]) -> None:
    for pipe in pipes.values():
        skipcache.reset(pipe)


def run_engines(settings: EnginesSettings, console: Console) -> Path:
    use_threads(settings.threads)
    bench = PresetBench(settings)
    rows = list(bench.rows())
    folder = settings.results or (settings.out if bench.small else Path("benchmarks") / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result_name(bench.device, settings)}.json"
    facts: dict[str, Any] = {
        "batch": bench.batch,
        "dtype": bench.dtype,
        "reduced": (bench.preset.reduction() if bench.small else None) or None,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "device": describe_device(str(bench.device)),
    }
    write_json(path, settings, facts | {"rows": [asdict(row) for row in rows]})
    console.print(preset_table(rows, settings, facts))
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return path
