"""cache-dit: DBCache, with and without TaylorSeer, and its step computation masks (SCM).

`enable_cache` patches the pipeline's class, and goes by its name: each pipeline gets a class of its own, named as the
model's own pipeline in diffusers is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from skipcache.benchmarks.peers.method import THRESHOLDS, Setting, Task, bisect
from skipcache.benchmarks.sampling import ReferencePipeline

FIRST, WARM_UP = 1, 8  # blocks that always run, and steps: F1B0 and W8 of its documentation, which has 28 to 50 steps


def dbcache(task: Task, calibrator: str | None, **config: Any) -> ReferencePipeline:
    import cache_dit

    _quiet()
    name = type(task.model).__name__.partition("Transformer")[0] + "Pipeline"  # DiTPipeline
    pipe = task.pipe(type(name, (ReferencePipeline,), {}))
    kind = {"taylorseer": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1), None: None}[calibrator]
    steps = cache_dit.DBCacheConfig(Fn_compute_blocks=FIRST, Bn_compute_blocks=0, **config)
    cache_dit.enable_cache(pipe, cache_config=steps, calibrator_config=kind)
    return pipe


def _quiet() -> None:
    """Its loggers print every setting of every copy to stdout."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.lower().startswith(("cache_dit", "cache-dit")) and isinstance(logger, logging.Logger):
            logger.setLevel(logging.ERROR)


def usage(calibrator: str | None, *of_config: str) -> str:
    more = ", calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)" if calibrator else ""
    return "\n".join([*of_config, f"cache_dit.enable_cache(pipe, cache_config=config{more})"])


@dataclass(frozen=True)
class DBCache:
    """Where the first block's residual has changed by less than `threshold`, the others' is reused, or forecast."""

    name: str = "dbcache"
    label: str = "DBCache"
    library: str = "cache-dit"
    note: str = ""
    calibrator: str | None = None

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return bisect(task, self, [{"threshold": t} for t in THRESHOLDS], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        threshold = setting["threshold"]
        return dbcache(task, self.calibrator, residual_diff_threshold=threshold, max_warmup_steps=_warm_up(task.calls))

    def usage(self, task: Task, setting: Setting) -> str:
        threshold, warm_up = f"{setting['threshold']:.3g}", _warm_up(task.calls)
        config = f"Fn_compute_blocks=1, residual_diff_threshold={threshold}, max_warmup_steps={warm_up}"
        return usage(self.calibrator, f"config = cache_dit.DBCacheConfig({config})")


def _warm_up(calls: int) -> int:
    return min(WARM_UP, round(WARM_UP * calls / 50))


@dataclass(frozen=True)
class StepsMask:
    """SCM: `full` steps run in full, whatever changes.

    As in its own masks half of them come first, and the last step is one; the others are spread evenly between.
    """

    name: str = "scm"
    label: str = "DBCache, SCM"
    library: str = "cache-dit"
    note: str = ""
    calibrator: str | None = None

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return bisect(task, self, [{"full": n} for n in range(task.calls - 1, 1, -1)], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        import cache_dit

        computed, cached = bins(task.calls, setting["full"])
        mask = cache_dit.steps_mask(compute_bins=computed, cache_bins=cached, total_steps=task.calls)
        return dbcache(task, self.calibrator, steps_computation_mask=mask, steps_computation_policy="static")

    def usage(self, task: Task, setting: Setting) -> str:
        computed, cached = bins(task.calls, setting["full"])
        mask = f"mask = cache_dit.steps_mask(compute_bins={computed}, cache_bins={cached})"
        policy = "steps_computation_mask=mask, steps_computation_policy='static'"
        return usage(self.calibrator, mask, f"config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, {policy})")


def bins(calls: int, full: int) -> tuple[list[int], list[int]]:
    """(steps that run in full, steps that are cached), in turn: [6, 1, 1], [20, 22]."""
    first = max(1, full // 2)
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


METHODS = (
    DBCache(),
    DBCache("dbcache-taylorseer", "DBCache, TaylorSeer", calibrator="taylorseer"),
    StepsMask(),
    StepsMask("scm-taylorseer", "DBCache, SCM, TaylorSeer", calibrator="taylorseer"),
)
