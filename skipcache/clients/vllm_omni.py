"""vLLM-Omni: a cache backend with the interface of its `CacheBackend`: `enable`, `refresh`, `is_enabled`.

Its selector takes names of its own backends only, so that this one must be handed over: see docs/clients.md.
vLLM-Omni is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from torch import nn

import skipcache

DENOISERS = ("transformer", "transformer_2")  # where a pipeline names none in `_dit_modules`


class Denoisers:
    """A pipeline's denoisers and scheduler, as skipcache takes a pipeline. vLLM-Omni's own are modules."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = (pipeline,)  # in a tuple: it is no denoiser of its own
        for name in getattr(pipeline, "_dit_modules", None) or DENOISERS:
            found = reduce(lambda owner, part: getattr(owner, part, None), name.split("."), pipeline)
            if isinstance(found, nn.Module):
                setattr(self, name.replace(".", "_"), found)

    @property
    def scheduler(self) -> Any:
        return getattr(self._pipeline[0], "scheduler", None)


class SkipCacheBackend:
    """Full and cached steps for a vLLM-Omni pipeline (arXiv 2411.17616).

    Args:
        config: settings of `skipcache.accelerate`: a dict, or vLLM-Omni's `DiffusionCacheConfig`, whose fields that are
            not its own are taken.

    Example:
        backend = SkipCacheBackend({"speedup": 2})
        backend.enable(pipeline)
    """

    def __init__(self, config: Any = None) -> None:
        self.config = config
        given = config if isinstance(config, Mapping) else getattr(config, "_extra_params", {})
        self.settings = dict(given)
        self.enabled = False
        self._denoisers: Denoisers | None = None

    def enable(self, pipeline: Any) -> None:
        """Called once, when the pipeline is loaded. Raises TypeError or ValueError where nothing can be accelerated."""
        denoisers = Denoisers(pipeline)
        skipcache.accelerate(denoisers, **self.settings)
        self._denoisers, self.enabled = denoisers, True

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Called before each request: its first step is full.

        `num_inference_steps` and `verbose` are not needed: runs are told apart by the scheduler.
        """
        if self._denoisers is None:
            self.enable(pipeline)
        else:
            skipcache.release(self._denoisers)

    def disable(self, pipeline: Any) -> None:
        """The pipeline is as it was."""
        if self._denoisers is not None:
            skipcache.restore(self._denoisers)
        self._denoisers, self.enabled = None, False

    def is_enabled(self) -> bool:
        return self.enabled

    def report(self) -> Any:
        """`skipcache.report` of the pipeline. Raises ValueError before `enable`."""
        if self._denoisers is None:
            raise ValueError("expected a backend that is enabled; call enable(pipeline) first")
        return skipcache.report(self._denoisers)
