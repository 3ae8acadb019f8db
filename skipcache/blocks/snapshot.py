"""Proof by trial: a cached step that is given D itself must give the full step's output, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def same_output(one: Any, other: Any) -> bool:
    """Both have equal tensors, at least one. NaN equals NaN."""
    ours, theirs = list(tensors_of(one)), list(tensors_of(other))
    return len(ours) == len(theirs) > 0 and all(map(_equal, ours, theirs))


def tensors_of(output: Any) -> Iterator[Tensor]:
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (x for x in vars(leaf).values() if isinstance(x, Tensor))


def _equal(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.is_meta and b.is_meta:
        return True  # no values
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


@contextmanager
def quietly(device: torch.device, model: nn.Module) -> Iterator[None]:
    """A trial run: it takes no random numbers from the run it is part of, and what it writes on `model` is put back."""
    moment = Moment(device, model)
    try:
        yield
    finally:
        moment.put_back()


# What modules and their hooks (offloading moves weights) keep there, beside the attributes of a model's own code.
_NOT_OWN = frozenset(vars(nn.Module())) | {"forward", "_old_forward", "_hf_hook", "_diffusers_hook", "cache_context"}
_CONTAINERS = (list, set, dict)


class Moment:
    """What a run of `model` may leave behind, as it is now: the generators, all attributes, the values of buffers."""

    def __init__(self, device: torch.device, model: nn.Module) -> None:
        self._device = None if device.type in ("cpu", "meta") else device
        self._on_device = torch.get_device_module(device).get_rng_state(device) if self._device else None
        self._generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        self._attributes, self._buffers = [], []
        for module in model.modules():
            own = {name: value for name, value in module.__dict__.items() if name not in _NOT_OWN}
            self._attributes.append((module.__dict__, own, {name: _copied(value) for name, value in own.items()}))
            for x in module._buffers.values():
                if x is not None and not x.is_inference():
                    self._buffers.append((x, x._version, x.detach().clone()))

    def put_back(self) -> None:
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
        for put, state in zip((torch.set_rng_state, random.setstate, numpy.random.set_state), self._generators):
            put(state)  # type: ignore[operator]
        if self._device is not None:
            torch.get_device_module(self._device).set_rng_state(self._on_device, self._device)


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in _CONTAINERS else value


def _refill(value: Any, items: Any) -> None:
    value.clear()
    (value.extend if isinstance(value, list) else value.update)(items)
