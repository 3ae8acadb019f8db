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

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from skipcache.trajectory.mark import Mark
from skipcache.trajectory.span import Rows, Turn, rows_of, turn_of

STRICT = (0.01, 0.03)  # one that a sampler makes that draws no noise, in float32 and in 16 bits
FEWEST = 32  # numbers of an image
MOST_PAIRS = 64  # of images of two calls that are compared


class Seen:
    """One sample of one step, the outputs that the model gave for it in all lanes, and those of the step before.

    All are copies: loops write to their tensors. `beside` are those of calls of the step with other numbers of the same
    images (LTX-2's pass of one half): the sampler goes on with their outputs too.
    """

    def __init__(self, samples: Sequence[Tensor], before: Seen | None) -> None:
        self.shapes = [x.shape for x in samples]
        self.rows = [rows_of(x) for x in samples]
        self._channels: int | None = None  # of the sample, that the model answers for where these are not all
        self.outputs: list[list[Rows]] = []
        self.before = before
        self.beside: list[Seen] = []
        self._asked: tuple[Sequence[Mark], Turn] | None = None  # what was asked last: lanes of one step ask the same
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
        return self.fits(samples) and all(_equal(mine, rows_of(x)) for mine, x in zip(self.rows, samples))

    def leads_to(self, samples: Sequence[Tensor], earlier: Sequence[Seen]) -> bool:
        """Another sample, which a sampler makes of this one, with those of the step before, without noise.

        Where the model answers for some channels only, others that change make no other sample (an image to edit).
        """
        if not (self.fits(samples) and self.tells):
            return False
        shapes, channels = [(*shape[:2], -1) for shape in self.shapes], self._channels
        both = ((mine.reshape(shape), rows_of(x).reshape(shape)) for mine, x, shape in zip(self.rows, samples, shapes))
        if all(_equal(mine[:, :channels], theirs[:, :channels]) for mine, theirs in both):
            return False
        more = [[v for seen in earlier if seen.fits(samples) for v in seen._span(i)] for i in range(len(samples))]
        turns = [
            turn_of(self._span(i) + more[i], rows_of(x), STRICT[x.element_size() < 4]) for i, x in enumerate(samples)
        ]
        if any(turn.size > turn.least for turn in turns):
            return False
        # Not of those of the step before alone, as another lane's.
        without = [turn_of(span, rows_of(x), 0.0).size if span else 1.0 for span, x in zip(more, samples)]
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

    def turn(self, samples: Sequence[Tensor], marks: Sequence[Mark] | None = None) -> Turn:
        """How far `samples`, which fit, have turned out of the span of what was seen here; the image that did most.

        `marks` are theirs.
        """
        marks = [Mark.of(x) for x in samples] if marks is None else marks
        if self._asked is None or not all(was.same(now) or was.equal(now) for was, now in zip(self._asked[0], marks)):
            turns = [turn_of(self._span(i), rows_of(x), STRICT[x.element_size() < 4]) for i, x in enumerate(samples)]
            self._asked = marks, max(turns, key=lambda turn: turn.size)
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


def _partners_of(x: Rows) -> list[list[int]] | None:
    """Rows that hold the same image, which guidance mixes: lists of as many rows as there are, each another order."""
    count = len(x)
    if count < 2 or len(set(x[:, 0].tolist())) == count:
        return None
    same = (x == x[:1]).all(1).tolist()
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
        return [rows_of(e)]
    whole = e.new_zeros(shape)
    whole[:, : e.shape[1]] = e
    return [rows_of(whole)]


def _equal(a: Rows, b: Rows) -> bool:
    return a.shape == b.shape and bool((a == b).all().tolist())


def _only(x: Rows, channels: int) -> Rows:
    """The first channels of (images, channels, numbers), and zeros: where the model answers for these alone
    (inpainting), the sampler scales these alone."""
    kept = x * 0
    kept[:, :channels] = x[:, :channels]
    return kept
