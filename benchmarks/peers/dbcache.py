"""cache-dit: DBCache, with and without TaylorSeer, and its step computation masks (SCM).

`enable_cache` patches the pipeline's class, and goes by its name: each pipeline gets a class of its own, named as the
model's own pipeline in diffusers is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from skipcache.benchmarks.peers.method import THRESHOLDS, Setting, Task, best
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline

FIRST = 1  # blocks that always run: F1B0 of its documentation, which at 12 blocks leaves room for three times the speed


def dbcache(task: Task, calibrator: str | None, **config: Any) -> ReferencePipeline:
    import cache_dit

    _quiet()
    pipe: ReferencePipeline = task.pipe_of_class(_name_in_diffusers(task))
    kind = {"taylorseer": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1), None: None}[calibrator]
    steps = cache_dit.DBCacheConfig(Fn_compute_blocks=FIRST, Bn_compute_blocks=0, **config)
    cache_dit.enable_cache(pipe, cache_config=steps, calibrator_config=kind)
    return pipe


def _name_in_diffusers(task: Task) -> str:
    """Of the pipeline: that which the task's is derived from, or DiTPipeline, of a DiTTransformer2DModel."""
    ours = type(task.plain)
    bases = (cls.__name__ for cls in ours.__mro__ if cls.__module__.startswith("diffusers.pipelines."))
    base = next(bases, "DiffusionPipeline")
    return base if base != "DiffusionPipeline" else type(task.model).__name__.partition("Transformer")[0] + "Pipeline"


def _quiet() -> None:
    """Silences its loggers, which print every setting of every copy."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.lower().startswith(("cache_dit", "cache-dit")) and isinstance(logger, logging.Logger):
            logger.setLevel(logging.ERROR)


def usage(calibrator: str | None, *of_config: str) -> str:
    more = ", calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)" if calibrator else ""
    return "\n".join([*of_config, f"cache_dit.enable_cache(pipe, cache_config=config{more})"])


@dataclass(frozen=True)
class DBCache:
    """Where the first block's residual has changed by less than `threshold`, the others' is reused, or forecast.

    After `warm_up` full steps: 8, the default, of 28 to 50 steps, or fewer where that is more faithful.
    """

    name: str
    label: str
    library: str
    calibrator: str | None = None

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        warm_ups = {min(n, max(1, round(n * task.calls / 50))) for n in (8, 4, 1)}
        ladders = [[{"warm_up": n, "threshold": t} for t in THRESHOLDS] for n in sorted(warm_ups)]
        return best(task, self, ladders, budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        threshold, warm_up = setting["threshold"], setting["warm_up"]
        return dbcache(task, self.calibrator, residual_diff_threshold=threshold, max_warmup_steps=warm_up)

    def usage(self, task: Task, setting: Setting) -> str:
        config = f"residual_diff_threshold={setting['threshold']:.3g}, max_warmup_steps={setting['warm_up']}"
        return usage(self.calibrator, f"config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, {config})")

    def note(self, task: Task) -> str:
        return ""


@dataclass(frozen=True)
class StepsMask:
    """SCM: `full` steps run in full, whatever changes, of which `first` at the start and one at the end.

    In its own masks half of them come first; else they are spread evenly, where that is more faithful.
    """

    name: str
    label: str
    library: str
    calibrator: str | None = None

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        counts = range(task.calls - 1, 1, -1)
        half = [{"full": n, "first": max(1, n // 2)} for n in counts]
        return best(task, self, [half, [{"full": n, "first": 1} for n in counts]], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        import cache_dit

        computed, cached = bins(task.calls, **setting)
        mask = cache_dit.steps_mask(compute_bins=computed, cache_bins=cached, total_steps=task.calls)
        return dbcache(task, self.calibrator, steps_computation_mask=mask, steps_computation_policy="static")

    def usage(self, task: Task, setting: Setting) -> str:
        computed, cached = bins(task.calls, **setting)
        mask = f"mask = cache_dit.steps_mask(compute_bins={computed}, cache_bins={cached})"
        policy = "steps_computation_mask=mask, steps_computation_policy='static'"
        return usage(self.calibrator, mask, f"config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, {policy})")

    def note(self, task: Task) -> str:
        return ""


def bins(calls: int, full: int, first: int) -> tuple[list[int], list[int]]:
    """(steps that run in full, steps that are cached), in turn: [6, 1, 1], [20, 22]."""
    later = full - first
    ends = [first - 1 + round((calls - first) * (i + 1) / later) for i in range(later)]
    steps = [*range(first), *ends]
    computed, cached = [1], []
    for before, step in pairwise(steps):
        if step == before + 1:
            computed[-1] += 1
        else:
            computed.append(1)
            cached.append(step - before - 1)
    return computed, cached
