"""`skipcache engines`: time alone, of both engines, by the run and by the step.

The plain model, hooks and fx run in turns, step by step. Every figure is a median of pairs: a step over the same step
of the plain model, made right before or after it. On a GPU, whose host is slow and noisy, speedups are those of whole
runs in which nothing waits for the device.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

import skipcache
from skipcache.benchmarks.engines.memory import bytes_at_hand, check_fits
from skipcache.benchmarks.engines.presets import Preset, find_preset
from skipcache.benchmarks.engines.rows import OneShot, PresetRow, RivalRow
from skipcache.benchmarks.engines.tables import preset_table, result_name, rival_table
from skipcache.benchmarks.engines.turns import EARLY, Run, in_turns, whole_runs
from skipcache.benchmarks.names.predictors import label_of, make_predictor
from skipcache.benchmarks.options.engines import EnginesSettings
from skipcache.benchmarks.sampling.stopwatch import TimedPipeline, counted_syncs
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import describe_device, write_json

ENGINES = ("hooks", "fx")
USUAL_INTERVAL = 3  # of a first image


class PresetBench:
    """Pipelines around one model that share its weights. With `compile` fx is compiled, and so is its plain rival.

    Raises ValueError for a size that does not fit the memory at hand.
    """

    def __init__(self, settings: EnginesSettings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        self.preset = find_preset(settings.preset, settings.reduced, settings.blocks)
        self.batch = settings.batch or self.preset.batch_on(self.device)
        self.dtype = settings.dtype or ("bfloat16" if self.device.type == "cuda" else "float32")
        dtype = getattr(torch, self.dtype)
        if isinstance(self.preset, Preset):
            check_fits(self.preset, self.batch, dtype, bytes_at_hand(self.device))
        self.model = self.preset.build(self.device, dtype)
        self.inputs = self.preset.inputs(self.model, self.batch)
        self.options: dict[str, Any] = {"backend": settings.compile} | (
            {"mode": settings.mode} if settings.mode else {}
        )
        self.plain = {"plain": self.pipeline()}
        if settings.compile is not None:
            self.plain["compiled"] = self.pipeline()
            self.plain["compiled"].transformer.compile(**self.options)
        in_turns(self.plain, self.inputs, 2, dict.fromkeys(self.plain, 1))  # its code is loaded

    def pipeline(self, cls: type[TimedPipeline] = TimedPipeline) -> TimedPipeline:
        """Around a copy of the model with the same weights in memory."""
        shared = {id(x): x for x in (*self.model.parameters(), *self.model.buffers())}
        pipe = cls(deepcopy(self.model, shared), self.preset.scheduler())
        pipe.time_unit = self.preset.time_unit
        pipe.clock = time.process_time if self.settings.cpu_time else time.perf_counter
        return pipe

    def one_shot(self) -> OneShot | None:
        """The first image of all, with default arguments. Only the plain model has run before."""
        steps = self.settings.one_shot
        if not steps or self.settings.compile is not None:
            return None
        pipe = self.pipeline()
        skipcache.accelerate(pipe, interval=USUAL_INTERVAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this run saves less than 3x, since it has few steps
            runs = in_turns({"plain": self.plain["plain"], "auto": pipe}, self.inputs, steps)
        report = skipcache.report(pipe)
        return OneShot(
            steps=steps,
            interval=USUAL_INTERVAL,
            engine=report.engine,
            full_steps=report.full_steps,
            first_step=runs["auto"].first_over(runs["plain"]),
            speedup=runs["plain"].seconds / runs["auto"].seconds,
            ideal=report.ideal_speedup,
        )

    def rivals(self) -> list[RivalRow]:
        """Caches of other packages, on the same full steps."""
        from skipcache.benchmarks.engines.rivals import Rivals

        return Rivals(self.pipeline, self.inputs, self.settings.steps).rows()

    def rows(self) -> Iterator[PresetRow]:
        steps = self.settings.steps
        for predictor, interval in product(self.settings.predictors, self.settings.intervals):
            ours = {engine: self._accelerated(engine, interval, predictor) for engine in ENGINES}
            pipes = {**self.plain, **ours}
            begun = in_turns(pipes, self.inputs, min(steps, 3 * interval + 2), dict.fromkeys(self.plain, EARLY))
            first = {engine: begun[engine].first_over(begun[self._rival(engine)]) for engine in ENGINES}
            _reset(ours)
            rounds = [self._round(pipes, turn) for turn in range(self.settings.rounds)]
            reports = {engine: skipcache.report(pipe) for engine, pipe in ours.items()}
            for engine, pipe in ours.items():
                _reset(ours)  # the other's cache is not to be counted into this one's memory
                yield self._row(engine, interval, predictor, pipe, rounds, reports[engine], first[engine])

    def _accelerated(self, engine: str, interval: int, predictor: str) -> TimedPipeline:
        pipe = self.pipeline()
        options: Any = self.options if self._rival(engine) == "compiled" else False
        chosen = make_predictor(predictor)
        policy = skipcache.Interval(interval)
        skipcache.accelerate(
            pipe, policy=policy, keep=self.settings.keep, predictor=chosen, engine=engine, compile=options
        )
        return pipe

    def _round(self, pipes: dict[str, TimedPipeline], turn: int) -> dict[str, Run]:
        found = in_turns(pipes, self.inputs, self.settings.steps)
        if self.device.type == "cpu":
            return found
        seconds = whole_runs(pipes, self.inputs, self.settings.steps, turn)
        return {name: Run(seconds[name], run.steps) for name, run in found.items()}

    def _rival(self, engine: str) -> str:
        return "compiled" if engine == "fx" and "compiled" in self.plain else "plain"

    def _row(
        self,
        engine: str,
        interval: int,
        predictor: str,
        pipe: TimedPipeline,
        rounds: list[dict[str, Run]],
        report: skipcache.Report,
        first: float,
    ) -> PresetRow:
        rival = self._rival(engine)
        cached = [i for i in range(self.settings.steps) if i not in report.full_at]
        ratios = tuple(r[rival].seconds / r[engine].seconds for r in rounds)
        memory, plain_memory = self._peak(pipe), self._peak(self.plain[rival])
        syncs, plain_syncs = self._syncs(pipe), self._syncs(self.plain[rival])
        compiled = ", ".join(filter(None, (self.settings.compile, self.settings.mode)))
        backend = f", {compiled}" if rival == "compiled" else ""
        return PresetRow(
            label=f"interval {interval}, {label_of(predictor)}, {engine}{backend}",
            against=f"plain{backend}",
            interval=interval,
            predictor=predictor,
            engine=report.engine,
            speedup=median(ratios),
            ratios=ratios,
            ideal=report.ideal_speedup,
            first_step=first,
            full_step=median(r[engine].over(r[rival], report.full_at) for r in rounds),
            cached_step=median(r[engine].over(r[rival], cached) for r in rounds),
            over_hooks=tuple(r["hooks"].over(r[engine], cached) for r in rounds),
            peak_memory=memory,
            plain_peak_memory=plain_memory,
            syncs_per_step=syncs,
            plain_syncs_per_step=plain_syncs,
            plain_seconds_per_step=median(seconds for r in rounds for seconds in r[rival].steps),
            cache_bytes=report.cache_bytes,
        )

    def _peak(self, pipe: TimedPipeline) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        pipe.denoise(*self.inputs, self.settings.steps)
        return int(torch.cuda.max_memory_allocated(self.device))

    def _syncs(self, pipe: TimedPipeline) -> float | None:
        """Synchronisations of host and device per step, the sampler's included; that of the result is left out."""
        if self.device.type != "cuda":
            return None
        with counted_syncs() as messages:
            pipe.denoise(*self.inputs, self.settings.steps)
        return (sum("synchronizing" in str(m.message) for m in messages) - 1) / self.settings.steps


def _reset(pipes: dict[str, TimedPipeline]) -> None:
    for pipe in pipes.values():
        skipcache.reset(pipe)


def run_engines(settings: EnginesSettings, console: Console) -> Path:
    use_threads(settings.threads)
    bench = PresetBench(settings)
    folder = settings.results or (settings.out if settings.on_cpu else Path("benchmarks") / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result_name(bench.device, settings)}.json"
    facts: dict[str, Any] = {
        "batch": bench.batch,
        "dtype": bench.dtype,
        "reduced": bench.preset.changes or None,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "device": describe_device(str(bench.device)),
    }
    if settings.peers:
        rivals = bench.rivals()
        write_json(path, settings, facts | {"peers": [asdict(row) for row in rivals]})
        console.print(rival_table(rivals, settings))
    else:
        first = bench.one_shot()
        rows = list(bench.rows())
        kept = {"one_shot": None if first is None else asdict(first), "rows": [asdict(row) for row in rows]}
        write_json(path, settings, facts | kept)
        console.print(preset_table(rows, first, settings, facts))
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return path
