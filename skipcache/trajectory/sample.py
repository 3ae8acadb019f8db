"""Whether a sample goes on from a lane's last one: evidence that equal conditioning cannot give.

Samplers make the next sample of the last one, of the model's outputs there, and some of those of the step before (DDIM,
Euler, Heun, DPM++, guidance of any scale). So it lies in their span, for each image by itself. What lies outside of it
is what `turn` measures: sin of the angle between the sample and the span, 0 for these samplers and up to 1. It ignores
scale, so that `scale_model_input` and every schedule are alike. Another noise, tile, window or image is not in the
span: of noise in n numbers the span of k vectors explains k / n, give or take sqrt(2 k) / n.

Samplers that draw noise turn too: an ancestral step from sigma s to s' by at most sqrt(1 - (s' / s)^2), 0.87 in 10
steps of Karras' schedule, DDPM by 0.8 in 20 steps. `Turn.fits` allows that at a run's second step, and then 3 times the
largest of its last 4 turns, but not less than 0.05, for what a sampler does beside (clipping, a third order). Late in a
run images of one text resemble each other, and tiles of one image too. So a run that began where another one was
expected to go on, as windows that move do, is allowed 0.01 alone at its second step (0.03 in 16 bits), and one whose
scheduler is known and draws no noise 0.3. Of diffusers' schedulers without noise and clipping, in 4, 10 and 30 steps,
those of first and second order turned by less than 0.0001 in float32 and 0.014 in bfloat16, those of third order by
0.02; PNDM, which begins by Runge and Kutta's rule, by 0.2.
Samplers of one's own that draw much noise on each step (DDPM in 10 steps, LCM) exceed the bound: their steps are full.
Where a scheduler is known to draw noise, the sample is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import on_host
from skipcache.trajectory.mark import IN_NUMPY, Mark

LEAST = 0.05  # a turn that any sampler may make
STRICT = (0.01, 0.03)  # one that a sampler makes that draws no noise, in float32 and in 16 bits
KNOWN = 0.3  # one at the second step of a scheduler that is known to draw no noise: pipelines may mask the sample
ODD = 0.6  # what a sampler may turn that has turned less before
GROWTH = 3.0
RECENT = 4
EXPLAINED = 0.2  # the part of the sample's square that must lie in the span where nothing is known of the sampler
FEWEST = 32  # numbers of an image
MANY = 8  # vectors of a span at most
MOST_PAIRS = 64  # of images of two calls that are compared
RIDGES = 1e-12 * np.eye(MANY)
TINY = 1.2e-38  # the smallest number of float32

Rows = Any  # (images, numbers): an array for a tensor on the host, else a tensor; both have the operators used here


class Seen:
    """One sample of one step, the outputs that the model gave for it in all lanes, and those of the step before.

    All are copies: loops write to their tensors. `beside` are those of calls of the step with other numbers of the same
    images (LTX-2's pass of one half): the sampler goes on with their outputs too.
    """

    def __init__(self, samples: Sequence[Tensor], before: Seen | None) -> None:
        self.shapes = [x.shape for x in samples]
        self.rows = [_rows(x) for x in samples]
        self._channels: int | None = None  # of the sample, that the model answers for where these are not all
        self.outputs: list[list[Rows]] = []
        self.before = before
        self.beside: list[Seen] = []
        self._asked: tuple[list[Mark], Turn] | None = None  # what was asked last: lanes of one step ask the same
        if before is not None:
            before.before = None

    def fits(self, samples: Sequence[Tensor]) -> bool:
        """As many samples, of the same shapes."""
        return [x.shape for x in samples] == self.shapes

    @property
    def tells(self) -> bool:
        """A sample can be judged by it: outputs were noted, and there are more numbers than a span has vectors."""
        return bool(self.outputs) and all(rows.shape[1] >= FEWEST for rows in self.rows)

    def is_of(self, samples: Sequence[Tensor]) -> bool:
        """The same sample; on a device this synchronises."""
        return self.fits(samples) and all(_equal(mine, _rows(x)) for mine, x in zip(self.rows, samples))

    def leads_to(self, samples: Sequence[Tensor], earlier: Sequence[Seen]) -> bool:
        """Another sample, which a sampler makes of this one, with those of the step before, without noise.

        Where the model answers for some channels only, others that change make no other sample (an image to edit).
        """
        if not (self.fits(samples) and self.tells):
            return False
        shapes, channels = [(*shape[:2], -1) for shape in self.shapes], self._channels
        both = ((mine.reshape(shape), _rows(x).reshape(shape)) for mine, x, shape in zip(self.rows, samples, shapes))
        if all(_equal(mine[:, :channels], theirs[:, :channels]) for mine, theirs in both):
            return False
        more = [[v for seen in earlier if seen.fits(samples) for v in seen._span(i)] for i in range(len(samples))]
        turns = [_turn(self._span(i) + more[i], _rows(x), STRICT[x.element_size() < 4]) for i, x in enumerate(samples)]
        if any(turn.size > turn.least for turn in turns):
            return False
        # Not of those of the step before alone, as another lane's.
        without = [_turn(span, _rows(x), 0.0).size if span else 1.0 for span, x in zip(more, samples)]
        return all(was > turn.least for turn, was in zip(turns, without))

    def join(self, other: Seen) -> None:
        """`other` is of another call of this step. Where it may be of the same images, their outputs go together."""
        images = [[shape[1:] for shape in one.shapes] for one in (self, other)]
        if images[0] == images[1] and self.shapes != other.shapes and other not in self.beside:
            self.beside.append(other)
            other.beside.append(self)

    def note(self, output: Any) -> None:
        """The model gave `output`."""
        found = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
        fitting = [e for x, shape in zip(found, self.shapes) for e in _as_changes(x, shape)]
        if len(found) >= len(self.shapes) and fitting:
            self.outputs.append(fitting)
            self._channels = min(found[0].shape[1], self.shapes[0][1])

    def turn(self, samples: Sequence[Tensor]) -> Turn:
        """How far `samples`, which fit, have turned out of the span of what was seen here; the image that did most."""
        if self._asked is None or not all(mark.same(x) or mark.equal(x) for mark, x in zip(self._asked[0], samples)):
            turns = [_turn(self._span(i), _rows(x), STRICT[x.element_size() < 4]) for i, x in enumerate(samples)]
            self._asked = [Mark.of(x) for x in samples], max(turns, key=lambda turn: turn.size)
        return self._asked[1]

    def _span(self, which: int) -> list[Rows]:
        """Vectors, the latest first; each has a row for each image."""
        x = self.rows[which]
        found = [x]
        for outputs in self.outputs:
            for e in outputs:
                found += [e] if e.shape == x.shape else []
        partners = self._partners[which]
        if self._channels is not None and self._channels < self.shapes[which][1]:
            shape = (*self.shapes[which][:2], -1)
            found.append(_only(x.reshape(shape), self._channels).reshape(x.shape))
        if partners is not None:
            found += [e[rows] for e in found[1:] for rows in partners]
        for other in self.beside:
            orders = _orders_of(x, other.rows[which])
            found += [
                e[rows] for outputs in other.outputs for e in outputs if e.shape[1:] == x.shape[1:] for rows in orders
            ]
        return found if self.before is None else [*found, *self.before._span(which)]

    @cached_property
    def _partners(self) -> list[list[list[int]] | None]:
        """By sample: see `_partners_of`."""
        return [_partners_of(x) for x in self.rows]


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


def _turn(span: list[Rows], x: Rows, least: float) -> Turn:
    """Of each row, the part outside of the span; the largest."""
    size = x.shape[1]
    span = span[: max(1, min(MANY, size // 8))]
    products = _products([x, *span])  # (images, 1 + vectors, 1 + vectors)
    sizes = products.diagonal(axis1=1, axis2=2)
    scales = 1 / np.sqrt(sizes + TINY)
    cosines = products * scales[:, :, None] * scales[:, None, :]
    along = cosines[:, 1:, :1]
    explained = (along * np.linalg.solve(cosines[:, 1:, 1:] + RIDGES[: len(span), : len(span)], along)).sum((1, 2))
    # A sample of zeros goes on from one of zeros; of what is not a number nothing is known.
    parts = [1.0 if old <= TINY >= new else part for part, (new, old) in zip(explained.tolist(), sizes[:, :2].tolist())]
    outside = 1 - min((part if part == part else 0.0 for part in parts), default=0.0)
    outside = min(max(outside, 0.0), 1.0)
    by_chance = (len(span) + 5 * math.sqrt(2 * len(span))) / max(size, 1)
    return Turn(math.sqrt(outside), math.sqrt(max(0.0, 1 - max(EXPLAINED, by_chance))), least)


def _products(vectors: list[Rows]) -> np.ndarray:
    """Scalar products of all vectors of each image. On a device this is the one look at it."""
    if isinstance(vectors[0], np.ndarray):
        stacked = np.stack(vectors, 1).astype(np.float64)
        return stacked @ stacked.transpose(0, 2, 1)
    on_device = torch.stack(vectors, 1).double()
    return np.array((on_device @ on_device.mT).tolist())


def _rows(x: Tensor) -> Rows:
    """A copy, (images, numbers), float32, as an array where it can be; a tensor without a batch is one image."""
    images = x.shape[0] if x.ndim > 1 else 1
    if type(x) in (Tensor, nn.Parameter) and on_host(x) and x.dtype in IN_NUMPY:
        return np.array(x.numpy(force=True), np.float32).reshape(images, -1)
    rows = x.detach().reshape(images, -1).to(torch.float32, copy=True)
    return rows.numpy() if on_host(x) else rows


def _partners_of(x: Rows) -> list[list[int]] | None:
    """Rows that hold the same image, which guidance mixes: lists of as many rows as there are, each another order."""
    count, same = len(x), (x == x[:1]).all(1).tolist()
    for parts in (p for p in (2, 3, 4) if count % p == 0 and sum(same) > 1):
        each = count // parts
        apart = [[(row + shift * each) % count for row in range(count)] for shift in range(1, parts)]
        beside = [[row - row % parts + (row + shift) % parts for row in range(count)] for shift in range(1, parts)]
        for orders in (apart, beside) if each > 1 else (apart,):
            if all(same[order[0]] and _equal(x, x[order]) for order in orders):
                return orders
    return None


def _orders_of(x: Rows, others: Rows) -> list[list[int]]:
    """Rows of `others` that hold the images of x: lists of one for each row of x; none where an image is missing."""
    if len(x) * len(others) > MOST_PAIRS:
        return []
    equal = (x[:, None] == others[None]).all(-1).tolist()
    held = [[i for i, same in enumerate(row) if same] for row in equal]
    return [[rows[turn % len(rows)] for rows in held] for turn in range(max(map(len, held)))] if all(held) else []


def _as_changes(e: Tensor, shape: torch.Size) -> list[Rows]:
    """An output as rows like the sample's: without learned variances, and with zeros where it has fewer channels."""
    if e.ndim != len(shape) or e.ndim < 2 or not e.is_floating_point() or e.is_meta:
        return []
    if e.shape[:1] + e.shape[2:] != shape[:1] + shape[2:]:
        return []
    e = e.detach()[:, : shape[1]]
    if e.shape[1] == shape[1]:
        return [_rows(e)]
    whole = e.new_zeros(shape)
    whole[:, : e.shape[1]] = e
    return [_rows(whole)]


def _equal(a: Rows, b: Rows) -> bool:
    return a.shape == b.shape and bool((a == b).all().tolist())


def _only(x: Rows, channels: int) -> Rows:
    """The first channels of (images, channels, numbers), and zeros: where the model answers for these alone
    (inpainting), the sampler scales these alone."""
    kept = x * 0
    kept[:, :channels] = x[:, :channels]
    return kept
