"""The client's word: which run, step and lane the calls inside of a `with` are. It is taken as said.

diffusers' `cache_context("cond")` is such a word too: it names the lane.

It goes with the context of the caller (a ContextVar): over asyncio tasks by itself, over threads where the context is
handed on, as `asyncio.to_thread` does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipcache.policies import Policy
from skipcache.trajectory.time import SchedulerRun


@dataclass(frozen=True, eq=False)
class Word:
    """What is said of the calls of some models.

    Attributes:
        models: those that it is said of.
        name: of the run.
        timesteps: of the run, in the order in which it goes through them; None where they were not said.
        times: the flow time of each of them; None where they were not said.
        policy: of the run; None: the model's own.
        step, lane: of the calls; None where they were not said.
    """

    models: tuple[Any, ...]
    name: str
    timesteps: Tensor | None = None
    times: tuple[float, ...] | None = None
    policy: Policy | None = None
    step: int | None = None
    lane: str | None = None

    @property
    def run(self) -> SchedulerRun | None:
        """Its timesteps, as those of a scheduler."""
        return None if self.timesteps is None else SchedulerRun(None, self.timesteps, self.times)

    def is_of(self, said: SchedulerRun | None, policy: Policy, default: Policy) -> bool:
        """It says the same as before of a run with these timesteps and this policy."""
        mine, theirs = self.timesteps, None if said is None else said.timesteps
        same = mine is theirs or (mine is not None and theirs is not None and torch.equal(mine, theirs))
        return same and self.times == (None if said is None else said.told) and policy == (self.policy or default)


SAID: ContextVar[tuple[Word, ...]] = ContextVar("skipcache", default=())


@contextmanager
def saying(word: Word) -> Iterator[None]:
    token = SAID.set((*SAID.get(), word))
    try:
        yield
    finally:
        SAID.reset(token)


def said_of(model: Any) -> Word | None:
    """The last word on `model`, in the context of the caller."""
    words = SAID.get()
    return next((word for word in reversed(words) if any(one is model for one in word.models)), None) if words else None


class NamedLanes:
    """Stands in for diffusers' `cache_context`, which names the lane of the calls inside it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.previous = module.__dict__.get("cache_context")
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "previous": self.previous}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())

    @property
    def name(self) -> str | None:
        return getattr(self._local, "name", None)

    @contextmanager
    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        model = self.module
        plain = self.previous or getattr(type(model), "cache_context").__get__(model)  # noqa: B009
        before, self._local.name = self.name, name
        try:
            with plain(name, *args, **kwargs):
                yield
        finally:
            self._local.name = before

    def put_on(self) -> None:
        if hasattr(type(self.module), "cache_context"):
            self.module.__dict__["cache_context"] = self

    def take_off(self) -> None:
        if self.module.__dict__.get("cache_context") is self:
            del self.module.__dict__["cache_context"]
            if self.previous is not None:
                self.module.__dict__["cache_context"] = self.previous
