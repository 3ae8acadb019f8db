"""Predictors: D-hat, the deep feature of a cached step, from the fresh shallow feature H and what full steps left.

A predictor is frozen and pure. `residual` says what a full step leaves behind: D itself, or R = D - H. `remember` makes
of it, once, what is kept until the next full step. `weights` turns step indices into plain numbers on the host, and
`predict` does what is left of the arithmetic on every cached step; it can be traced and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from skipcache.blocks.streams import Streams


@runtime_checkable
class Predictor(Protocol):
    """What the engines ask of a predictor; bring your own by writing these five, or the other four in a subclass."""

    @property
    def residual(self) -> bool:
        """True: full steps leave R = D - H. False: they leave D."""

    @property
    def depth(self) -> int:
        """The number of full steps whose indices are remembered."""

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """What is kept from a full step on that left `feature`.

        `kept` is what was kept before, nothing at first; `full_steps` are the remembered indices, that of this step
        first. Here: the features themselves, the latest first. To keep as many tensors from the first full step on
        spares the fx engine a graph for each number of them.
        """
        return [feature, *kept][: self.depth]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """The numbers `predict` needs at `step`: those by which what it adds is multiplied, and no others."""

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        """D-hat. H is None where `kept` was made of D because R cannot be formed."""


@dataclass(frozen=True)
class Prediction:
    """All that a cached step needs beside its arguments. `residual`: what is kept was made of R = D - H, not of D.

    `observe`, if there, is told the fresh H of the step when it is over, None where it cannot be told apart; a graph
    then hands it out beside the output.
    """

    predictor: Predictor
    kept: Sequence[Streams]
    weights: Sequence[float]
    residual: bool
    observe: Callable[[Streams | None], None] | None = None

    def __call__(self, H: Streams | None) -> Streams:
        """D-hat from the fresh H."""
        return self.predictor.predict(H if self.residual else None, self.kept, self.weights)

    def saw(self, H: Streams | None) -> None:
        """The step is over, and had this H."""
        if self.observe is not None:
            self.observe(H)


@dataclass(frozen=True)
class Hold(Predictor):
    """D-hat = D of the last full step: the paper's Skip-Cache (arXiv 2411.17616, section 3.3)."""

    residual = False
    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        return tuple(kept[0])


@dataclass(frozen=True)
class Delta(Predictor):
    """D-hat = H + (D - H) of the last full step: their update is held, not their output (arXiv 2406.01125)."""

    residual = True
    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        return tuple(kept[0]) if H is None else _plus(H, kept[0])


@dataclass(frozen=True)
class Forecast:
    """R = D - H extrapolated over the last full steps, in the step index: Newton's polynomial of degree `order`.

    Order 1, with full steps s and r < s: D-hat = H + R_s + (R_s - R_r) * ((i - s) / (s - r)). Raising the order follows
    curved paths closer and lets errors grow faster between full steps; with fewer full steps behind it than order + 1
    the degree is what they allow, so the first cached steps are Delta's. Cf. TaylorSeer (2503.06923).
    """

    order: int = 1
    residual = True

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool):
            raise TypeError(f"Forecast: expected an int for order, got {self.order!r}")
        if not 1 <= self.order <= 4:
            raise ValueError(f"Forecast: expected 1 <= order <= 4, got {self.order}; order 0 is Delta()")

    @property
    def depth(self) -> int:
        return self.order + 1

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """R of the last full step, and differences R_k - R_k+1, the latest first; zero where there are none."""
        differences = [_minus(feature, kept[0]), *kept[1:]] if kept else []
        zeros = [tuple(map(torch.zeros_like, feature)) for _ in range(self.order - len(differences))]
        return [feature, *differences, *zeros][: self.depth]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """One number per first difference: Newton's polynomial, its terms gathered by difference."""
        s = list(full_steps)
        gathered = [0.0] * self.order
        for degree in range(1, len(s)):
            reach = 1.0
            for node in s[:degree]:
                reach *= step - node
            for k, share in enumerate(_divided(s[: degree + 1])):
                gathered[k] += reach * share
        return tuple(gathered)

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        latest, *differences = kept
        D_hat = latest if H is None else _plus(H, latest)
        for difference, w in zip(differences, weights):
            D_hat = tuple(x + d * w for x, d in zip(D_hat, difference))
        return tuple(D_hat)


@dataclass(frozen=True)
class Damped:
    """`Forecast(1)` with the slope times g, from 0 to 1: how much of the slope before it came true.

    With full steps s > r > q: D-hat = H + R_s + g * (R_s - R_r) * ((i - s) / (s - r)). Of what came, y = R_s - R_r, and
    what was to come, x = (R_r - R_q) * ((s - r) / (r - q)), g is <y, x> / <x, x>, by row of the batch and by stream.
    With fewer full steps behind it g is 0: Delta. Where features turn, a line overshoots; where they move along, g is
    near 1.
    """

    residual = True
    depth = 3

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """R of the last full step, what it came by since the one before, and g: zero where there is none before."""
        if not kept:
            came = was_to_come = tuple(map(torch.zeros_like, feature))
        else:
            came = _minus(feature, kept[0])
            s, r, q = (*full_steps, -1)[:3]
            was_to_come = tuple(x * ((s - r) / (r - q)) for x in kept[1])
        return [feature, came, tuple(map(_share, came, was_to_come))]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """(i - s) / (s - r), once there are two full steps."""
        if len(full_steps) < 2:
            return (0.0,)
        s, r = full_steps[:2]
        return ((step - s) / (s - r),)

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        latest, came, share = kept
        D_hat = latest if H is None else _plus(H, latest)
        return tuple(x + c * (g * weights[0]).to(c.dtype) for x, c, g in zip(D_hat, came, share))


def remembered(predictor: Predictor, features: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
    """What `predictor` keeps once full steps have left `features`; both are given with the latest first."""
    kept: Sequence[Streams] = []
    for i in reversed(range(len(full_steps))):
        kept = predictor.remember(features[i], kept, full_steps[i:][: predictor.depth])
    return kept


def _plus(these: Streams, those: Streams) -> Streams:
    return tuple(a + b for a, b in zip(these, those))


def _minus(these: Streams, those: Streams) -> Streams:
    return tuple(a - b for a, b in zip(these, those))


def _share(y: Tensor, x: Tensor) -> Tensor:
    """<y, x> / <x, x> by row, between 0 and 1, in a shape that multiplies y; 0 where x is 0."""
    rows, columns = (z.reshape(len(z), -1).float() for z in (y, x))
    size = (columns * columns).sum(1)
    share = torch.where(size > 0, (rows * columns).sum(1) / size, torch.zeros_like(size))
    return share.clamp(0, 1).reshape(-1, *[1] * (y.ndim - 1))


def _divided(nodes: Sequence[int]) -> list[float]:
    """The divided difference over `nodes` as weights of the first differences f(nodes[k]) - f(nodes[k+1])."""
    if len(nodes) == 2:
        return [1 / (nodes[0] - nodes[1])]
    width = nodes[0] - nodes[-1]
    near, far = _divided(nodes[:-1]), _divided(nodes[1:])
    return [(a - b) / width for a, b in zip([*near, 0.0], [0.0, *far])]
