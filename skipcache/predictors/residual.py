"""Predictors of the residual R = D - H: D-hat = H + R_s + a weighted sum of differences of R between full steps.

`Delta` adds no difference, `Forecast` adds one or two, `Damped` adds one with a weight that it measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipcache.blocks import Streams
from skipcache.predictors.base import Predictor, Total


class Residual(Predictor):
    """The formula that all predictors of this file share. `kept` begins with R_s, that of the last full step."""

    residual = True

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        D_hat = kept[0] if H is None else tuple(h + r for h, r in zip(H, kept[0]))
        for difference, factors in self._terms(kept, weights):
            D_hat = tuple(x + d * w for x, d, w in zip(D_hat, difference, factors))
        return tuple(D_hat)

    def _terms(self, kept: Sequence[Streams], weights: Sequence[float]) -> Iterator[tuple[Streams, Sequence[Any]]]:
        """Each difference, and by stream the factor that it is multiplied by."""
        for difference, w in zip(kept[1:], weights):
            yield difference, [w] * len(difference)


@dataclass(frozen=True)
class Delta(Residual):
    """D-hat = H + R_s: what the deep blocks added at the last full step is added again (Delta-DiT, arXiv 2406.01125).

    One deep feature is kept.

    Example:
        skipcache.accelerate(pipe, interval=3, predictor=skipcache.Delta())
    """

    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()


@dataclass(frozen=True)
class Forecast(Residual):
    """R extrapolated over the last full steps, in the step index, by Newton's polynomial (cf. TaylorSeer, 2503.06923).

    Order 1, with full steps s > r, at step i: D-hat = H + R_s + (R_s - R_r) * (i - s) / (s - r). With fewer full steps
    behind it the degree is what they allow; the first cached steps are those of `Delta`.

    Args:
        order: 1 or 2. Order 2 follows curved paths, and its errors grow faster with the distance between full steps.
            It keeps one deep feature more.

    Raises TypeError or ValueError for another order.

    Example:
        skipcache.accelerate(pipe, interval=2, predictor=skipcache.Forecast(1))
    """

    order: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool):
            raise TypeError(f"Forecast: expected an int for order, got {self.order!r}")
        if not 1 <= self.order <= 2:
            raise ValueError(f"Forecast: expected order 1 or 2, got {self.order}; order 0 is Delta()")

    @property
    def depth(self) -> int:
        return self.order + 1

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """R_s, then R_s - R_r, then R_r - R_q; zeros where there are no full steps yet."""
        differences = [_minus(feature, kept[0]), *kept[1:]] if kept else []
        zeros = [_zeros(feature) for _ in range(self.order - len(differences))]
        return [feature, *differences, *zeros][: self.depth]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """Newton's polynomial, its terms gathered by difference."""
        if len(full_steps) < 2:
            return (0.0,) * self.order
        s, r = full_steps[:2]
        slope = (step - s) * (1 / (s - r))
        if len(full_steps) < 3:
            return (slope, 0.0)[: self.order]
        q = full_steps[2]
        reach = float((step - s) * (step - r))
        return slope + reach * (1 / (s - r) / (s - q)), -reach * (1 / (r - q) / (s - q))


@dataclass(frozen=True)
class Damped(Residual):
    """`Forecast(1)` whose slope is scaled by g, a number from 0 to 1 that is measured per image and stream.

    With full steps s > r > q, at step i: D-hat = H + R_s + g * (R_s - R_r) * (i - s) / (s - r). The slope before
    predicted the change x = (R_r - R_q) * (s - r) / (r - q); the change that came is y = R_s - R_r; then
    g = <y, x> / <x, x>, clamped to [0, 1]. With two full steps g is 1, which is `Forecast(1)`; with one it is `Delta`.
    Two deep features are kept. The default.

    Example:
        skipcache.accelerate(pipe, interval=3, predictor=skipcache.Damped())
    """

    depth = 3

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """R_s, the change y since the full step before, and g; y is zero while there is no full step before."""
        return self.remember_parts(feature, kept, full_steps, lambda x: x)

    def remember_parts(
        self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int], total: Total
    ) -> Sequence[Streams]:
        """The same where several processes hold parts of one image: g is that of the whole image."""
        if not kept:
            change = predicted = _zeros(feature)
        elif len(full_steps) < 3:
            change = predicted = _minus(feature, kept[0])
        else:
            change = _minus(feature, kept[0])
            s, r, q = full_steps[:3]
            predicted = tuple(x * ((s - r) / (r - q)) for x in kept[1])
        return [feature, change, tuple(_came_true(y, x, total) for y, x in zip(change, predicted))]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """(i - s) / (s - r), once there are two full steps."""
        if len(full_steps) < 2:
            return (0.0,)
        s, r = full_steps[:2]
        return ((step - s) / (s - r),)

    def _terms(self, kept: Sequence[Streams], weights: Sequence[float]) -> Iterator[tuple[Streams, Sequence[Any]]]:
        _, change, g = kept
        yield change, [(share * weights[0]).to(c.dtype) for c, share in zip(change, g)]


def _minus(these: Streams, those: Streams) -> Streams:
    return tuple(a - b for a, b in zip(these, those))


def _zeros(feature: Streams) -> Streams:
    return tuple(map(torch.zeros_like, feature))


def _came_true(y: Tensor, x: Tensor, total: Total) -> Tensor:
    """<y, x> / <x, x> by row of the batch, clamped to [0, 1], shaped (batch, 1, ...); 0 where x is 0."""
    rows, columns = (z.reshape(len(z), -1).float() for z in (y, x))
    along, size = total(torch.stack([(rows * columns).sum(1), (columns * columns).sum(1)]))
    share = torch.where(size > 0, along / size, torch.zeros_like(size))
    return share.clamp(0, 1).reshape(-1, *[1] * (y.ndim - 1))
