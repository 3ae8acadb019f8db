"""What diffusers' own caches ask of a pipeline, for one that does not do it.

That is a `cache_context` around each call of the denoiser, `current_timestep`, and a reset after each run; of the
pipelines in diffusers the newer ones do these, those of DiT, PixArt and Latte do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from torch import Tensor

from skipcache.benchmarks.peers.method import Task
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline


class InContext(diffusers.CacheMixin):
    """A denoiser whose calls stand in a `cache_context`: the pipeline's, or else one for batched guidance."""

    current_timestep = 0
    in_context = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.current_timestep = int(kwargs["timestep"].flatten()[0])
        if self.in_context:
            return super().__call__(*args, **kwargs)
        with self.cache_context("cond"):
            return super().__call__(*args, **kwargs)

    @contextmanager
    def cache_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with super().cache_context(*args, **kwargs):
            self.in_context = True
            try:
                yield
            finally:
                self.in_context = False


class UnconditionalFirst(InContext):
    """FasterCache takes the first half of a batch for the unconditional one; the reference pipeline has it second."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        turned = {name: _turned(value) for name, value in kwargs.items()}
        outputs = super().__call__(*map(_turned, args), **turned)
        return (_turned(outputs[0]), *outputs[1:])


def _turned(value: Any) -> Any:
    return torch.cat(value.chunk(2)[::-1]) if isinstance(value, Tensor) else value


class Resetting(diffusers.DiffusionPipeline):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.maybe_free_model_hooks()


def cached_pipeline(task: Task, mixin: type = InContext) -> ReferencePipeline:
    """With a denoiser of a class of its own, so that no class that others use is touched."""
    pipe: ReferencePipeline = task.pipe_of_class("Resetting", (Resetting,))
    cls = type(pipe.transformer)
    pipe.transformer.__class__ = type(cls.__name__, (mixin, cls), {})
    return pipe


def enabled(task: Task, config: Any, mixin: type = InContext) -> ReferencePipeline:
    pipe = cached_pipeline(task, mixin)
    pipe.transformer.enable_cache(config)
    return pipe


def by_hand(task: Task, context: bool = False, timestep: bool = False, reset: bool = True) -> list[str]:
    """The lines that a user writes because the model's class, or its pipeline in diffusers, lacks what is asked for.

    Latte is a CacheMixin, and its pipeline tells the timestep and resets; DiT, PixArt and theirs do none of it.
    """
    cls = type(task.model)
    has_cache = issubclass(cls, diffusers.CacheMixin)
    found = []
    if context and not has_cache:
        found += [
            f"class Cached(diffusers.CacheMixin, diffusers.{cls.__name__}): ...",
            "transformer.__class__ = Cached",
        ]
    if context:
        found.append("with transformer.cache_context('cond'): ...  # in the pipeline, around the call")
    if timestep and not has_cache:
        found.append("pipe.current_timestep = t  # in the pipeline, before the call")
    if reset and not has_cache:
        found.append("HookRegistry.check_if_exists_or_initialize(transformer).reset_stateful_hooks()  # after each run")
    return found


def noted(task: Task) -> str:
    """What a method that asks for contexts needs by hand."""
    mixin = "" if issubclass(type(task.model), diffusers.CacheMixin) else "CacheMixin and "
    return f"{mixin}cache_context by hand"
