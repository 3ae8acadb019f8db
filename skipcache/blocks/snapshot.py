"""What a run of a model may leave behind: noted before it, and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from skipcache.blocks.attributes import TORCH, WRAPPERS
from skipcache.blocks.generators import Generators
from skipcache.blocks.outside import Outside


@contextmanager
def quietly(device: torch.device, model: nn.Module) -> Iterator[Snapshot]:
    """A trial run: it takes no random numbers from the run it is part of, and what it writes is put back."""
    before = Snapshot(device, model)
    try:
        yield before
    finally:
        before.put_back()


_NOT_OWN = TORCH | WRAPPERS  # hooks move weights between devices, and that must stay
_CONTAINERS = (list, set, dict)


class Snapshot:
    """What a run of `model` may leave behind, as it is now: generators, attributes, buffers, what lies `outside`."""

    def __init__(self, device: torch.device, model: nn.Module) -> None:
        self._generators = Generators(device)
        self.outside = Outside(model.modules())
        self._attributes, self._buffers = [], []
        for module in model.modules():
            own = {name: value for name, value in module.__dict__.items() if name not in _NOT_OWN}
            self._attributes.append((module.__dict__, own, {name: _copied(value) for name, value in own.items()}))
            for x in module._buffers.values():
                if x is not None and not x.is_inference():
                    self._buffers.append((x, x._version, x.detach().clone()))

    def put_back(self) -> None:
        self.outside.put_back()
        for held, own, copies in self._attributes:
            for name in held.keys() - own.keys() - _NOT_OWN:
                del held[name]
            for name, value in own.items():
                held[name] = value
                if type(value) in _CONTAINERS:
                    _refill(value, copies[name])
        for x, version, values in self._buffers:
            if x._version != version:
                with torch.no_grad():
                    x.copy_(values)
        self._generators.put_back()


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in _CONTAINERS else value


def _refill(value: Any, items: Any) -> None:
    value.clear()
    (value.extend if isinstance(value, list) else value.update)(items)
