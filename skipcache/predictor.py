"""Predictors: D-hat, the deep feature of a cached step, from the fresh shallow feature H and what full steps left.

A predictor is frozen and pure. `residual` says what a full step leaves behind: D itself, or R = D - H. `depth` says of
how many full steps. `weights` turns step indices into plain numbers on the host; `predict` does the arithmetic on
tensors, so that it can be traced and compiled, and costs no more memory than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from skipcache.streams import Streams


@runtime_checkable
class Predictor(Protocol):
    """What the engines ask of a predictor; bring your own by writing these four."""

    @property
    def residual(self) -> bool:
        """True: full steps leave R = D - H. False: they leave D."""

    @property
    def depth(self) -> int:
        """The number of full steps that are remembered."""

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """The numbers `predict` needs at `step`; `full_steps` are the remembered ones, the latest first."""

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        """D-hat. `kept` has the features of `full_steps`; H is None where they are D because R cannot be formed."""


@dataclass(frozen=True)
class Prediction:
    """All that a cached step needs beside its arguments. `residual`: what was kept is R = D - H, not D.

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
class Hold:
    """D-hat = D of the last full step: the paper's Skip-Cache (arXiv 2411.17616, section 3.3)."""

    residual = False
    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        return tuple(kept[0])


@dataclass(frozen=True)
class Delta:
    """D-hat = H + (D - H) of the last full step: their update is held, not their output (arXiv 2406.01125)."""

    residual = True
    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        return tuple(kept[0]) if H is None else tuple(h + r for h, r in zip(H, kept[0]))


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

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """One number per first difference R_k - R_k+1: Newton's polynomial, its terms gathered by difference."""
        s = list(full_steps)
        gathered = [0.0] * (len(s) - 1)
        for degree in range(1, len(s)):
            reach = 1.0
            for node in s[:degree]:
                reach *= step - node
            for k, share in enumerate(_divided(s[: degree + 1])):
                gathered[k] += reach * share
        return tuple(gathered)

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        D_hat = []
        for i, latest in enumerate(kept[0]):
            x = latest if H is None else H[i] + latest
            for k, w in enumerate(weights):
                x = x + (kept[k][i] - kept[k + 1][i]) * w
            D_hat.append(x)
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

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """(i - s) / (s - r) and (s - r) / (r - q), as far as there are full steps."""
        s = [step, *full_steps]
        return tuple((a - b) / (b - c) for a, b, c in zip(s, s[1:], s[2:]))

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        D_hat = []
        for i, latest in enumerate(kept[0]):
            x = latest if H is None else H[i] + latest
            if len(weights) > 1:
                came, was_to_come = latest - kept[1][i], (kept[1][i] - kept[2][i]) * weights[1]
                x = x + came * (_share(came, was_to_come) * weights[0]).to(came.dtype)
            D_hat.append(x)
        return tuple(D_hat)


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
