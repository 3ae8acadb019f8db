"""`skipcache engines PRESET --peers`: caches of whole blocks beside each other, on the same full steps.

All run one block at the start of cached steps. So they skip the same blocks, and what differs is what each does around
them. Fidelity is not looked at: `skipcache peers` does that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

import skipcache
from skipcache.benchmarks.engines.rows import RivalRow
from skipcache.benchmarks.engines.turns import Inputs, Run, in_turns
from skipcache.benchmarks.sampling.stopwatch import TimedPipeline

NEVER = 1e9  # a threshold that no change comes near to: all but the full steps asked for are cached
ONE_AT_THE_START = (1, 0)


class CalledPipeline(TimedPipeline):
    """cache-dit starts its runs in the pipeline's `__call__`."""

    def __call__(self, num_inference_steps: int, body: Callable[[], None]) -> None:
        body()


class ContextPipeline(TimedPipeline):
    """diffusers' caches want each call of the denoiser in a context."""

    def _call(self, t: Tensor) -> Tensor:
        with self.transformer.cache_context("cond"):
            return super()._call(t)


def full_steps(steps: int) -> tuple[int, ...]:
    """Two at the start, which TaylorSeer needs, and every fourth one."""
    return tuple(sorted({0, 1, *range(4, steps, 4)}))


class Rivals:
    """What is compared; `make` gives a pipeline of a class around a copy of the model."""

    def __init__(self, make: Callable[..., Any], inputs: Inputs, steps: int) -> None:
        self.make, self.inputs, self.steps = make, inputs, steps
        self.full = full_steps(steps)

    def rows(self) -> list[RivalRow]:
        pipes, failed = {"plain": self.make()}, []
        for name, attach in self._methods().items():
            try:
                pipe = attach()
                self._runs({name: pipe}, 3)  # what cannot run at all is left out before the turns
                pipes[name] = attach()
            except Exception as error:  # what is raised is each package's own
                failed.append(RivalRow(name, error=f"{type(error).__name__}: {error}"[:200]))
        begun = self._runs(pipes, self.steps)
        later = self._runs(pipes, self.steps)
        return [*(self._row(name, begun, later) for name in pipes if name != "plain"), *failed]

    def _methods(self) -> dict[str, Callable[[], Any]]:
        ours = {
            f"skipcache, {engine}, {type(predictor).__name__}": (engine, predictor)
            for engine in ("hooks", "fx")
            for predictor in (skipcache.Hold(), skipcache.Damped())
        }
        return {
            **{name: partial(self._ours, *chosen) for name, chosen in ours.items()},
            "cache-dit, DBCache": lambda: self._cache_dit(taylor=False),
            "cache-dit, TaylorSeer": lambda: self._cache_dit(taylor=True),
            "diffusers, FirstBlockCache": self._first_block_cache,
        }

    def _ours(self, engine: str, predictor: Any) -> Any:
        pipe = self.make()
        policy = skipcache.Schedule(self.full)
        return skipcache.accelerate(pipe, policy=policy, keep=ONE_AT_THE_START, predictor=predictor, engine=engine)

    def _cache_dit(self, taylor: bool) -> Any:
        """On a pipeline of a class of its own: it goes by the class's name, and patches it."""
        import cache_dit

        for name, logger in logging.root.manager.loggerDict.items():
            if name.lower().startswith(("cache_dit", "cache-dit")) and isinstance(logger, logging.Logger):
                logger.setLevel(logging.ERROR)
        pipe = self.make(CalledPipeline)
        known = f"{type(pipe.transformer).__name__.partition('Transformer')[0]}Pipeline"
        pipe.__class__ = type(known, (CalledPipeline,), {"__call__": CalledPipeline.__call__})
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=2,
            residual_diff_threshold=NEVER,
            num_inference_steps=self.steps,
            steps_computation_mask=[int(i in self.full) for i in range(self.steps)],
            steps_computation_policy="static",
        )
        forecast = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
        cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=forecast)
        return pipe

    def _first_block_cache(self) -> Any:
        pipe = self.make(ContextPipeline)
        model = pipe.transformer
        if not isinstance(model, diffusers.CacheMixin):
            cls = type(model)
            model.__class__ = type(cls.__name__, (diffusers.CacheMixin, cls), {})
        model.enable_cache(FirstBlockCacheConfig(threshold=NEVER))
        return pipe

    def _runs(self, pipes: dict[str, Any], steps: int) -> dict[str, Run]:
        """A run of each in turns, within the calls of those pipelines that must be called."""
        found: dict[str, Run] = {}
        called = [pipe for pipe in pipes.values() if isinstance(pipe, CalledPipeline)]
        with torch.no_grad():
            _within(called, self.steps, lambda: found.update(in_turns(pipes, self.inputs, steps)))
        for pipe in pipes.values():
            if isinstance(pipe, ContextPipeline):
                pipe.transformer._reset_stateful_cache()
        return found

    def _row(self, name: str, begun: dict[str, Run], later: dict[str, Run]) -> RivalRow:
        run, plain = later[name], later["plain"]
        fulls = (0,) if "FirstBlockCache" in name else self.full
        cached = [i for i in range(2, self.steps) if i not in self.full]
        first = begun[name].first_over(begun["plain"])
        return RivalRow(name, first, run.over(plain, fulls), run.over(plain, cached))


def _within(called: Sequence[Any], steps: int, body: Callable[[], None]) -> None:
    """`body` within the calls of all of these."""
    if called:
        called[0](num_inference_steps=steps, body=lambda: _within(called[1:], steps, body))
    else:
        body()
