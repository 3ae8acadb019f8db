"""Trial runs of the accelerated step, by hooks alone: the same `StepRunner` as in sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from skipcache.engines import Engine, Order
from skipcache.engines.hooks import HookEngine
from skipcache.runtime import StepRunner
from skipcache.trajectory import processes_of


def runner_of(engine: HookEngine, predictor: Any) -> StepRunner:
    """Raises ValueError, on the first step, for a model that cannot be cached."""

    def refused(engine: Engine, reason: str, last: bool = True) -> NoReturn:
        raise ValueError(f"{type(model).__name__} cannot be cached: {reason}")

    model = engine.model
    runner = StepRunner(model, Order([engine]), predictor, refused, lambda reason: refused(engine, reason))
    runner.processes = processes_of(model)
    return runner


@contextmanager
def attached(engine: HookEngine) -> Iterator[None]:
    """The engine's overrides are on the model, and afterwards as they were before."""
    before = engine.attached
    engine.attach()
    try:
        yield
    finally:
        if not before:
            engine.detach()
