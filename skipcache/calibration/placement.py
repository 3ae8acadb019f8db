"""Dynamic programming over the steps of a run: the full steps that leave the least sum of errors to the cached ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Errors = Mapping[tuple[int, int, int], float]  # by (steps from s' to s, 0 where there is no s'; s; t)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Full steps, counted from 0, and the sum of the cached steps' errors."""

    full_steps: tuple[int, ...]
    cost: float


def place(errors: Errors, steps: int, gaps: Sequence[int], most: int) -> dict[int, Placement]:
    """The best placement by number of full steps, up to `most`, with one of `gaps` from each full step to the next.

    The state is a full step and the gap before it, on which the forecast rests; every cached step's error depends
    on these and on its own distance. Numbers of full steps that no placement has are left out.
    """
    befores = [0, *gaps]
    until = _sums(errors, steps, befores)
    best = np.full((len(befores), steps), np.inf)  # by (gap before, full step)
    best[0, 0] = 0.0
    came: list[NDArray[np.int64]] = []
    found: dict[int, Placement] = {}
    for k in range(1, most + 1):
        whole = best + until[:, :, steps]
        gap, s = np.unravel_index(int(whole.argmin()), whole.shape)
        if np.isfinite(whole[gap, s]):
            found[k] = Placement(_traced(came, befores, int(gap), int(s)), float(whole[gap, s]))
        best, back = _extended(best, until, befores, steps)
        came.append(back)
    return found


def _sums(errors: Errors, steps: int, befores: Sequence[int]) -> Array:
    """By (gap before s, s, end): the errors of the steps after s and before `end`."""
    until = np.full((len(befores), steps, steps + 1), np.inf)
    for i, gap in enumerate(befores):
        for s in range(steps) if gap else (0,):
            total, end = 0.0, s + 1
            while end <= steps and np.isfinite(total):
                until[i, s, end] = total
                total += errors.get((gap, s, end), np.inf)
                end += 1
    return until


def _extended(best: Array, until: Array, befores: Sequence[int], steps: int) -> tuple[Array, NDArray[np.int64]]:
    """`best` with one full step more, and the gap before the last but one."""
    following = np.full_like(best, np.inf)
    back = np.zeros(best.shape, dtype=np.int64)
    for i, ahead in enumerate(befores):
        if 0 < ahead < steps:
            s = np.arange(steps - ahead)
            costs = best[:, s] + until[:, s, s + ahead]  # (gap before, s)
            following[i, ahead:], back[i, ahead:] = costs.min(0), costs.argmin(0)
    return following, back


def _traced(came: Sequence[NDArray[np.int64]], befores: Sequence[int], gap: int, s: int) -> tuple[int, ...]:
    placed = [s]
    for back in reversed(came):
        gap, s = int(back[gap, s]), s - befores[gap]
        placed.append(s)
    return tuple(reversed(placed))
