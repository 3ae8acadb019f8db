"""How far a sample lies outside of the span of others, for each image by itself, and how far it may."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipcache.blocks import on_host
from skipcache.trajectory.mark import IN_NUMPY

LEAST = 0.05  # a turn that any sampler may make
KNOWN = 0.3  # one at the second step of a scheduler that is known to draw no noise: pipelines may mask the sample
ODD = 0.6  # what a sampler may turn that has turned less before
GROWTH = 3.0
RECENT = 4
EXPLAINED = 0.2  # the part of the sample's square that must lie in the span where nothing is known of the sampler
MANY = 8  # vectors of a span at most
RIDGE = 1 + 1e-12  # vectors of a span may be equal
TINY = 1.2e-38  # the smallest number of float32

Rows = Any  # (images, numbers): an array for a tensor on the host, else a tensor; both have the operators used here


class Turn:
    """How far a sample has turned, from 0 to 1.

    `most`: how far one may whose sampler is not known yet. `least`: what rounding and a first step without noise do.
    """

    def __init__(self, size: float, most: float, least: float) -> None:
        self.size, self.most, self.least = size, most, least

    def fits(self, history: Sequence[float], strict: bool = False, known: bool = False) -> bool:
        """A sampler that turned its samples by `history` before may have made it.

        Where there is no history: `strict` allows for nothing but rounding, `known` for a scheduler without noise.
        """
        if history:
            return self.size <= min(max(self.most, LEAST), max(GROWTH * max(history[-RECENT:]), LEAST))
        return self.size <= max(self.least, 0.0 if strict else min(self.most, KNOWN) if known else self.most)


def turn_of(span: list[Rows], x: Rows, least: float) -> Turn:
    """Of each row, the part outside of the span; the largest."""
    size = x.shape[1]
    span = span[: max(1, min(MANY, size // 8))]
    count = len(span)
    products = _products([x, *span])  # (images, 1 + vectors, 1 + vectors)
    along, among, own = products[:, 1:, :1], products[:, 1:, 1:], products[:, 0, 0].tolist()
    squares = np.einsum("kii->ki", among)  # a view
    squares *= RIDGE
    squares += TINY
    explained = (along * np.linalg.solve(among, along)).sum((1, 2)).tolist()
    # A sample of zeros goes on from one of zeros; of what is not a number nothing is known.
    before = squares[:, 0].tolist()
    parts = [
        part / new if new > TINY else float(new <= TINY and old <= 2 * TINY)
        for part, new, old in zip(explained, own, before)
    ]
    outside = 1 - min((part if part == part else 0.0 for part in parts), default=0.0)
    outside = min(max(outside, 0.0), 1.0)
    by_chance = (count + 5 * math.sqrt(2 * count)) / max(size, 1)
    return Turn(math.sqrt(outside), math.sqrt(max(0.0, 1 - max(EXPLAINED, by_chance))), least)


def _products(vectors: list[Rows]) -> np.ndarray:
    """Scalar products of all vectors of each image. On a device this is the one look at it."""
    if isinstance(vectors[0], np.ndarray):
        images, size = vectors[0].shape
        stacked = np.empty((images, len(vectors), size))
        for i, vector in enumerate(vectors):
            stacked[:, i] = vector
        return stacked @ stacked.transpose(0, 2, 1)
    on_device = torch.stack(vectors, 1).double()
    return np.array((on_device @ on_device.mT).tolist())


def rows_of(x: Tensor) -> Rows:
    """A copy, (images, numbers), float32, as an array where it can be; a tensor without a batch is one image."""
    images = x.shape[0] if x.ndim > 1 else 1
    if type(x) in (Tensor, nn.Parameter) and on_host(x) and x.dtype in IN_NUMPY:
        return np.array(x.numpy(force=True), np.float32).reshape(images, -1)
    rows = x.detach().reshape(images, -1).to(torch.float32, copy=True)
    return rows.numpy() if on_host(x) else rows
