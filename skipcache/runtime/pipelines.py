"""The pipelines that share a model: whose scheduler tells the steps of the call under way."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Pipelines:
    """Weak references to pipelines. Their schedulers are read anew at each call, since users replace them."""

    def __init__(self) -> None:
        self._known: list[weakref.ref[Any]] = []
        self.ignored: tuple[Tensor, ...] = ()  # timesteps from before a pipeline was served

    def serve(self, pipeline: Any) -> None:
        """Raises TypeError for an object of a class that has no weak references, as SimpleNamespace."""
        try:
            made = weakref.ref(pipeline)
        except TypeError:
            raise TypeError(
                f"expected a pipeline of a class that allows weak references, got {type(pipeline).__name__}; pass the "
                f"denoiser itself, or a pipeline of a class of your own"
            ) from None
        if not any(known is pipeline for known in self.alive()):
            self._known = [*(ref for ref in self._known if ref() is not None), made]
            timesteps = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
            self.ignored = (*self.ignored[-8:], timesteps) if isinstance(timesteps, Tensor) else self.ignored

    def schedulers(self) -> tuple[list[Any], bool]:
        """Of the pipeline that is calling; of all, and False, where none of them is seen to call."""
        alive = self.alive()
        calling = _on_the_stack(alive) if alive else None
        found = (getattr(p, "scheduler", None) for p in (alive if calling is None else [calling]))
        return [scheduler for scheduler in found if scheduler is not None], calling is not None

    def alive(self) -> list[Any]:
        return [p for p in (ref() for ref in self._known) if p is not None]


def _on_the_stack(pipelines: Sequence[Any]) -> Any:
    """The one whose method is running on this thread; None where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        owner = frame.f_locals.get("self") if code.co_varnames[:1] == ("self",) and code.co_argcount else None
        if owner is not None and any(owner is pipeline for pipeline in pipelines):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
