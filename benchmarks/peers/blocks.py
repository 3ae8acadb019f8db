"""diffusers' caches of whole blocks or layers: FirstBlockCache, MagCache and TaylorSeer, by `enable_cache`."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from skipcache.benchmarks.peers.context import by_hand, enabled, noted
from skipcache.benchmarks.peers.method import THRESHOLDS, Setting, Task, best
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


@dataclass(frozen=True)
class FirstBlockCache:
    """The other blocks are skipped where the first one's residual has changed by less than `threshold`."""

    name: str
    label: str
    library: str

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return best(task, self, [[{"threshold": t} for t in THRESHOLDS]], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, FirstBlockCacheConfig(**setting))

    def usage(self, task: Task, setting: Setting) -> str:
        config = f"FirstBlockCacheConfig(threshold={setting['threshold']:.3g})"
        return "\n".join([*by_hand(task, context=True), f"transformer.enable_cache({config})"])

    def note(self, task: Task) -> str:
        return noted(task)


@dataclass
class MagCache:
    """All blocks are skipped while the residual's growth, measured once, predicts an error below `threshold`.

    Its own calibration mode prints the ratios that it needs. The share `retention_ratio` of steps at the start is full:
    0.2 by default, or less where that is more faithful. At most `max_skip_steps` in a row: 3 by default, and more only
    where that saves too little.
    """

    name: str
    label: str
    library: str
    ratios: Sequence[float] = ()

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        self.ratios = self.ratios or self._calibrated(task)
        return best(task, self, [_mag_ladder(0.2), _mag_ladder(0.04)], budget)

    def _calibrated(self, task: Task) -> Sequence[float]:
        pipe = enabled(task, MagCacheConfig(num_inference_steps=task.calls, calibrate=True))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            task.calibration_run(pipe)
        found: list[float] = ast.literal_eval(printed.getvalue().strip().splitlines()[-1])
        return found

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, MagCacheConfig(num_inference_steps=task.calls, mag_ratios=list(self.ratios), **setting))

    def usage(self, task: Task, setting: Setting) -> str:
        steps = f"num_inference_steps={task.calls}"
        rest = ", ".join(f"{name}={value:.3g}" for name, value in setting.items())
        return (
            f"apply_mag_cache(transformer, MagCacheConfig({steps}, calibrate=True))\n"
            "pipe(...)  # prints the ratios\n"
            "ratios = [...]  # copied from there\n"
            f"apply_mag_cache(transformer, MagCacheConfig({steps}, mag_ratios=ratios, {rest}))"
        )

    def note(self, task: Task) -> str:
        return "calibrated once for this model, sampler and number of steps"


def _mag_ladder(retention: float) -> list[Setting]:
    ladder = [{"threshold": t, "max_skip_steps": 3, "retention_ratio": retention} for t in THRESHOLDS]
    return [*ladder, *({**ladder[-1], "max_skip_steps": k} for k in range(4, 13))]


@dataclass(frozen=True)
class TaylorSeer:
    """Outputs of attention and feed-forward layers are forecast between full steps; `lite`: of the whole stack.

    The defaults match names that end in "attn", and lite mode's a `proj_out`, which these models need not have: then
    `cache_identifiers` and `skip_predict_identifiers` name the same modules.
    """

    name: str
    label: str
    library: str
    lite: bool = False

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return best(task, self, [_taylor_ladder(task.calls, last) for last in (False, True)], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **self._what(task), **setting))

    def _what(self, task: Task) -> dict[str, Any]:
        stack = "|".join(sorted({path.rsplit(".", 1)[0] for path in task.stack.blocks}))
        if not self.lite:
            return {"cache_identifiers": [rf"({stack})\.\d+\.(attn\d?|ff)"]}
        if hasattr(task.model, "proj_out"):
            return {"use_lite_mode": True}
        last = task.stack.blocks[-1].replace(".", r"\.")
        return {"cache_identifiers": [last], "skip_predict_identifiers": [rf"(?!{last}$)({stack})\.\d+"]}

    def usage(self, task: Task, setting: Setting) -> str:
        what = ", ".join(f"{name}={value!r}" for name, value in {**self._what(task), **setting}.items())
        config = f"config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, {what})"
        return "\n".join([*by_hand(task, context=True), config, "transformer.enable_cache(config)"])

    def note(self, task: Task) -> str:
        named = "" if "use_lite_mode" in self._what(task) else "; identifiers given, since the defaults match no module"
        return noted(task) + named


def _taylor_ladder(calls: int, last: bool) -> list[Setting]:
    """Longer and longer intervals, each at first with many more full steps: at the start (3 by default), or the end."""
    found: dict[int, Setting] = {}  # by number of full steps
    for interval in range(2, min(13, calls)):
        for more in range(calls // 2, -1, -1):
            start, end = (min(3, calls // 8 + 1), calls - more) if last else (max(1, more), calls)
            setting = {"cache_interval": interval, "disable_cache_before_step": start}
            full = sum(i < start or i >= end or (i - start - 1) % interval == 0 for i in range(calls))
            found.setdefault(full, setting | ({"disable_cache_after_step": end} if last else {}))
    return [found[full] for full in sorted(found, reverse=True)]
