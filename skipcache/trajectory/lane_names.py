"""diffusers' `cache_context("cond")` names the calls inside it: here it names their lane."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
