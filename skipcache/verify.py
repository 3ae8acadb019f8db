"""Proof by trial: a cached step that is given D itself must give the full step's output, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def same_output(one: Any, other: Any) -> bool:
    """Both have equal tensors, at least one. NaN equals NaN."""
    ours, theirs = list(_tensors(one)), list(_tensors(other))
    return len(ours) == len(theirs) > 0 and all(map(_equal, ours, theirs))


def _tensors(output: Any) -> Iterator[Tensor]:
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
def quietly(device: torch.device) -> Iterator[None]:
    """A trial run: it takes no random numbers from the run it is part of."""
    devices = [] if device.type in ("cpu", "meta") else [device]
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
