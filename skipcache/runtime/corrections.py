"""Corrections: what a calibration changes on each step, so that the next state comes out as in an uncached run.

On cached steps it is the slope of the forecast, and on all steps what is added to the model's output:
e' = e + a x + b e + c (e_-1 - e) + d (e_-2 - e_-1), with x the sample, e the model's output at this step and e_-1, e_-2
at the steps before. The scalars are the same for all samples, conditions and elements. Guidance mixes outputs of one x
with weights whose sum is 1, so it mixes corrected outputs in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from skipcache.blocks import tensors_of
from skipcache.trajectory import Call

LARGEST = 1e3  # scalars fitted so far lie below 10; a file with others is broken


@dataclass(frozen=True)
class Corrections:
    """`scalars`: by step (a, b, c, d), fewer where fewer steps lie behind, none where nothing is added.

    `slopes`: by step what the forecast's slope is multiplied by; 1 beyond the last. A line through the last two full
    steps overshoots where it is followed far: slopes below 1 are common.
    """

    scalars: tuple[tuple[float, ...], ...]
    slopes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(w, (int, float)) for step in self.scalars for w in step):
            raise TypeError(f"Corrections: expected numbers by step, got {self.scalars!r}")
        if not all(isinstance(slope, (int, float)) for slope in self.slopes):
            raise TypeError(f"Corrections: expected numbers for slopes, got {self.slopes!r}")
        numbers = [w for step in self.scalars for w in step] + list(self.slopes)
        if not all(math.isfinite(w) and abs(w) <= LARGEST for w in numbers):
            raise ValueError(
                f"Corrections: expected finite numbers of at most {LARGEST:g}, got {max(numbers, key=abs)}"
            )
        if any(len(step) > 4 for step in self.scalars):
            raise ValueError("Corrections: expected at most 4 numbers a step: of x, e, e_-1 - e and e_-2 - e_-1")

    def slope(self, step: int) -> float:
        return self.slopes[step] if step < len(self.slopes) else 1.0

    def apply(self, step: int, x: Tensor, e: Tensor, before: Sequence[Tensor]) -> Tensor:
        """e', of the shape of `e`; `before` are the model's own outputs of the steps before, the latest first."""
        weights = self.scalars[step] if step < len(self.scalars) else ()
        terms = terms_of(x, e, before)
        if not weights or len(terms) < len(weights):
            return e
        return added(e, terms, weights)


def terms_of(x: Tensor, e: Tensor, before: Sequence[Tensor]) -> list[Tensor]:
    """What the scalars weigh, in float32: x, e, e_-1 - e, e_-2 - e_-1, as far as `before` goes."""
    outputs = [e.float(), *(y.float() for y in before[:2])]
    return [x.float(), outputs[0], *(older - newer for newer, older in pairwise(outputs))]


def added(e: Tensor, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = e.float()
    for term, weight in zip(terms, weights):
        total = total + term * weight
    return total.to(e.dtype)


def main_output(output: Any, call: Call) -> Tensor | None:
    """What the sampler goes on with: the first tensor of `output`, without learned variances; None without a tensor."""
    found = next(tensors_of(output), None)
    if found is None or not _has_variances(found, call):
        return found
    return found[:, : call.x.shape[1]]


def with_main_output(output: Any, call: Call, e: Tensor) -> Any:
    """`output` with `e` where `main_output` found it."""
    leaves, spec = pytree.tree_flatten(output)
    index = _place(leaves)
    assert index is not None
    if _has_variances(leaves[index], call):
        e = torch.cat([e, leaves[index][:, call.x.shape[1] :]], dim=1)
    return pytree.tree_unflatten([*leaves[:index], e, *leaves[index + 1 :]], spec)


def correctable(output: Any, call: Call) -> bool:
    """There is one sample, and the output has its shape, beside learned variances, and can be replaced."""
    e = main_output(output, call)
    alone = isinstance(call.sample_structure, tuple) and len(call.sample_structure) == 1
    return alone and e is not None and e.shape == call.x.shape and _place(pytree.tree_leaves(output)) is not None


def _place(leaves: Sequence[Any]) -> int | None:
    return next((i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)), None)


def _has_variances(x: Tensor, call: Call) -> bool:
    return x.ndim == call.x.ndim > 1 and x.shape[1] > call.x.shape[1]
