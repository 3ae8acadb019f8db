"""What diffusers' own caches ask of a pipeline, for one that does not do it.

That is a `cache_context` around each call of the denoiser, `current_timestep`, and a reset after each run; of the
pipelines in diffusers the newer ones do these, those of DiT, PixArt and Latte do not.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from skipcache.benchmarks.peers.method import Task
from skipcache.benchmarks.sampling import ReferencePipeline

WITHIN = "CacheMixin and cache_context by hand: neither the model nor its pipeline in diffusers has them"


class InContext(diffusers.CacheMixin):
    """A denoiser whose calls stand in a `cache_context`; batched guidance is one context."""

    current_timestep = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.current_timestep = int(kwargs["timestep"].flatten()[0])
        with self.cache_context("cond"):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]


class UnconditionalFirst(InContext):
    """FasterCache takes the first half of a batch for the unconditional one; the reference pipeline has it second."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        turned = {name: _turned(value) for name, value in kwargs.items()}
        outputs = super().__call__(*map(_turned, args), **turned)
        return (_turned(outputs[0]), *outputs[1:])


def _turned(value: Any) -> Any:
    return torch.cat(value.chunk(2)[::-1]) if isinstance(value, Tensor) else value


class Resetting(ReferencePipeline):
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.maybe_free_model_hooks()


def cached_pipeline(task: Task, mixin: type = InContext) -> ReferencePipeline:
    """With a denoiser of a class of its own, so that no class that others use is touched."""
    pipe = task.pipe(Resetting)
    cls = type(pipe.transformer)
    pipe.transformer.__class__ = type(cls.__name__, (mixin, cls), {})
    return pipe


def enabled(task: Task, config: Any, mixin: type = InContext) -> ReferencePipeline:
    pipe = cached_pipeline(task, mixin)
    pipe.transformer.enable_cache(config)
    return pipe


def lines(task: Task, *of_config: str) -> str:
    """What a user writes: the context, where the model's own pipeline lacks it, and `enable_cache`."""
    cls = type(task.model)
    context = ["with self.transformer.cache_context('cond'):  # in the pipeline, around its call"]
    mixin = [f"class Cached(diffusers.CacheMixin, diffusers.{cls.__name__}): ...", "transformer.__class__ = Cached"]
    reset = ["transformer._reset_stateful_cache()  # after each run"]
    own = [] if issubclass(cls, diffusers.CacheMixin) else mixin
    return "\n".join([*own, *context, *of_config, *reset])
