"""How much memory a method takes: the bytes of the tensors that it holds between steps, by the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LOOKS = 6  # per run, at evenly spaced calls of the denoiser: to walk all objects takes long


def storages() -> dict[int, int]:
    """Address -> bytes of what is behind the tensors that Python holds, those made before `gc.freeze` left out."""
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.device.type != "meta":
            if thing.layout != torch.strided:
                continue  # a sparse tensor has no storage of its own
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


@dataclass
class Held:
    """The most bytes in new tensors when the denoiser was called. Between steps only caches are left."""

    known: frozenset[int] = field(repr=False)
    bytes: int = 0

    @contextmanager
    def looking(self, model: nn.Module, calls: int) -> Iterator[None]:
        """At a run of so many calls of `model`."""
        at = {round((i + 1) * (calls - 1) / LOOKS) for i in range(LOOKS)}
        handle = model.register_forward_pre_hook(self._look(at))
        try:
            yield
        finally:
            handle.remove()

    def _look(self, at: set[int]) -> Callable[..., None]:
        calls = 0

        def look(*_: Any) -> None:
            nonlocal calls
            if calls in at:
                gc.collect()
                held = sum(size for address, size in storages().items() if address not in self.known)
                self.bytes = max(self.bytes, held)
            calls += 1

        return look


@contextmanager
def holding() -> Iterator[Held]:
    """What is made in this context counts as new: a method, its copy of the modules, its run. Weights are shared."""
    gc.collect()
    known = frozenset(storages())
    gc.freeze()
    try:
        yield Held(known)
    finally:
        gc.unfreeze()
