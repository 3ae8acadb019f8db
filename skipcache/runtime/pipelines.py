"""The pipelines that share a model: whose scheduler tells the steps of the call under way."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor, nn


class Pipelines:
    """Weak references to pipelines. Their schedulers are read anew at each call, since users replace them.

    `orphan`: a model that was copied or sent to another process, without the pipelines that it was served with. A
    pickle of a model must not carry a pipeline along, so its copy looks for one among the callers of its calls.
    """

    def __init__(self, orphan: nn.Module | None = None) -> None:
        self._known: list[weakref.ref[Any]] = []
        self._orphan = orphan
        self._driven: dict[int, Any] = {}  # timesteps that a pipeline is going through, by its scheduler
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
        """Of the pipeline that is calling, and True; else of all, but for the runs that a pipeline was seen to make."""
        alive = self.alive() or self._found()
        kinds: set[Any] = {type(pipeline) for pipeline in alive}
        codes = frozenset(code for kind in kinds for code in _codes_of(kind))
        calling = _on_the_stack(lambda owner: any(owner is p for p in alive), codes) if alive else None
        found = (getattr(p, "scheduler", None) for p in (alive if calling is None else [calling]))
        schedulers = [scheduler for scheduler in found if scheduler is not None]
        if calling is not None:
            driven = {id(scheduler): getattr(scheduler, "timesteps", None) for scheduler in schedulers}
            self._driven = {**dict(list(self._driven.items())[-8:]), **driven}
            return schedulers, True
        return [s for s in schedulers if self._driven.get(id(s), s) is not getattr(s, "timesteps", None)], False

    def alive(self) -> list[Any]:
        return [p for p in (ref() for ref in self._known) if p is not None]

    @property
    def expected(self) -> bool:
        """The model was served with a pipeline, here or where it was copied from."""
        return bool(self._known) or self._orphan is not None

    @property
    def absent(self) -> bool:
        """It was, but none has called it here."""
        return self._orphan is not None and not self._known

    def _found(self) -> list[Any]:
        """An orphan's new pipeline, if it is calling now."""
        model = self._orphan
        calling = None if model is None else _on_the_stack(lambda owner: _is_pipeline_of(model, owner))
        self._known = self._known if calling is None else [weakref.ref(calling)]
        return [] if calling is None else [calling]


def _is_pipeline_of(model: nn.Module, owner: Any) -> bool:
    held = getattr(owner, "__dict__", {})
    return "scheduler" in held and any(x is model or getattr(x, "module", None) is model for x in held.values())


@lru_cache(maxsize=64)
def _codes_of(cls: type) -> frozenset[int]:
    """The ids of the code of all its methods, under their decorators."""
    held = (inspect.unwrap(x) for base in cls.__mro__ for x in vars(base).values() if inspect.isfunction(x))
    return frozenset(id(function.__code__) for function in held)


def _on_the_stack(wanted: Callable[[Any], bool], codes: frozenset[int] | None = None) -> Any:
    """The first object that is `wanted` and whose method is running on this thread; None where there is none.

    `codes`: the ids of the code of some functions. Calls of these alone are looked at, since a look at a frame's
    variables holds them for a while.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        asked = codes is None or id(code) in codes
        is_method = asked and code.co_argcount and code.co_varnames[:1] == ("self",)
        owner = frame.f_locals.get("self") if is_method else None
        if owner is not None and wanted(owner):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
