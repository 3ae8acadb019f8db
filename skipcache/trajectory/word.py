"""The client's word: which run, step and lane the calls inside of a `with` are. It is taken as said.

It goes with the context of the caller (a ContextVar): over asyncio tasks by itself, over threads where the context is
handed on, as `asyncio.to_thread` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipcache.policies import Policy


@dataclass(frozen=True, eq=False)
class Word:
    """What is said of the calls of some models.

    Attributes:
        models: those that it is said of.
        name: of the run.
        timesteps: of the run, in the order in which it goes through them; None where they were not said.
        policy: of the run; None: the model's own.
        step, lane: of the calls; None where they were not said.
    """

    models: tuple[Any, ...]
    name: str
    timesteps: Tensor | None = None
    policy: Policy | None = None
    step: int | None = None
    lane: str | None = None


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
