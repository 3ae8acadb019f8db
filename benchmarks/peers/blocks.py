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

from skipcache.benchmarks.peers.context import WITHIN, enabled, lines
from skipcache.benchmarks.peers.method import THRESHOLDS, Method, Setting, Task, bisect
from skipcache.benchmarks.sampling import ReferencePipeline


@dataclass(frozen=True)
class FirstBlockCache:
    """The other blocks are skipped where the first one's residual has changed by less than `threshold`."""

    name: str = "fbcache"
    label: str = "FirstBlockCache"
    library: str = "diffusers"
    note: str = WITHIN

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return bisect(task, self, [{"threshold": t} for t in THRESHOLDS], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, FirstBlockCacheConfig(**setting))

    def usage(self, task: Task, setting: Setting) -> str:
        return lines(task, f"transformer.enable_cache(FirstBlockCacheConfig(threshold={setting['threshold']:.3g}))")


@dataclass
class MagCache:
    """All blocks are skipped while the residual's growth, measured once, predicts an error below `threshold`.

    Its own calibration mode prints the ratios that it needs. At most `max_skip_steps` in a row: 3 by default, and
    more only where that saves too little.
    """

    name: str = "magcache"
    label: str = "MagCache"
    library: str = "diffusers"
    note: str = WITHIN
    ratios: Sequence[float] = ()

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        self.ratios = self.ratios or self._calibrated(task)
        ladder: list[Setting] = [{"threshold": t, "max_skip_steps": 3} for t in THRESHOLDS]
        ladder += [{"threshold": THRESHOLDS[-1], "max_skip_steps": k} for k in range(4, 13)]
        return bisect(task, self, ladder, budget)

    def _calibrated(self, task: Task) -> Sequence[float]:
        pipe = enabled(task, MagCacheConfig(num_inference_steps=task.calls, calibrate=True))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            task.calibration_run(pipe)
        found: list[float] = ast.literal_eval(printed.getvalue().strip().splitlines()[-1])
        return found

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, MagCacheConfig(num_inference_steps=task.calls, mag_ratios=list(self.ratios), **setting))

    def usage(self, task: Task, setting: Setting) -> str:
        first = f"transformer.enable_cache(MagCacheConfig(num_inference_steps={task.calls}, calibrate=True))"
        run = ["pipe(...)  # prints the ratios", "transformer.disable_cache()", "ratios = [...]  # copied from there"]
        rest = f"threshold={setting['threshold']:.3g}, max_skip_steps={setting['max_skip_steps']}"
        config = f"MagCacheConfig(num_inference_steps={task.calls}, mag_ratios=ratios, {rest})"
        return lines(task, first, *run, f"transformer.enable_cache({config})")


@dataclass(frozen=True)
class TaylorSeer:
    """Outputs of attention and feed-forward layers are forecast between full steps; `lite`: of the whole stack.

    The defaults match names that end in "attn", and lite mode's a `proj_out`, which these models need not have: then
    `cache_identifiers` and `skip_predict_identifiers` name the same modules.
    """

    name: str = "taylorseer"
    label: str = "TaylorSeerCache"
    library: str = "diffusers"
    note: str = f"{WITHIN}; cache_identifiers, since the default ones match no module"
    lite: bool = False

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return bisect(task, self, self._ladder(task.calls), budget)

    def _ladder(self, calls: int) -> list[Setting]:
        """Longer intervals, and within each one fewer full steps before the first cached one."""
        ladder: list[Setting] = []
        for interval in range(2, min(13, calls)):
            starts = {_full(calls, interval, start): start for start in range(calls - 1, 0, -1)}
            ladder += [
                {"cache_interval": interval, "disable_cache_before_step": start}
                for full, start in sorted(starts.items(), reverse=True)
            ]
        seen: dict[int, Setting] = {}
        for setting in ladder:
            full = _full(calls, setting["cache_interval"], setting["disable_cache_before_step"])
            seen.setdefault(full, setting)
        return [seen[full] for full in sorted(seen, reverse=True)]

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return enabled(task, TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **self._what(task), **setting))

    def _what(self, task: Task) -> dict[str, Any]:
        lists = sorted({path.rsplit(".", 1)[0] for path in task.stack.blocks})
        stack = "|".join(lists)
        if not self.lite:
            return {"cache_identifiers": [rf"({stack})\.\d+\.(attn\d?|ff)"]}
        if hasattr(task.model, "proj_out"):
            return {"use_lite_mode": True}
        last = task.stack.blocks[-1].replace(".", r"\.")
        return {"cache_identifiers": [last], "skip_predict_identifiers": [rf"(?!{last}$)({stack})\.\d+"]}

    def usage(self, task: Task, setting: Setting) -> str:
        what = ", ".join(f"{name}={value!r}" for name, value in {**self._what(task), **setting}.items())
        return lines(
            task,
            f"config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, {what})",
            "transformer.enable_cache(config)",
        )


def _full(calls: int, interval: int, start: int) -> int:
    """How many of so many steps TaylorSeer runs in full, by its rule."""
    return sum(step < start or (step - start - 1) % interval == 0 for step in range(calls))


def methods() -> list[Method]:
    """New ones each time: MagCache holds the ratios of one model."""
    return [
        FirstBlockCache(),
        MagCache(),
        TaylorSeer(),
        TaylorSeer("taylorseer-lite", "TaylorSeerCache, whole stack", lite=True),
    ]
