"""What a predictor is: it gives D-hat, the deep feature of a cached step.

D-hat comes from the fresh shallow feature H and from what full steps left behind. A predictor is frozen and pure. On a
full step `remember` prepares what is kept until the next one. On a cached step `weights` turns step indices into plain
numbers on the host, and `predict` does the tensor arithmetic; it can be traced and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor

from skipcache.blocks import Streams

Total = Callable[[Tensor], Tensor]


@runtime_checkable
class Predictor(Protocol):
    """The formula for D-hat. Write your own with these five members; a subclass inherits `remember`.

    A feature is a tuple of streams, each (batch, tokens, width) in most models, the batch first. Provisional: the
    protocol may change before version 1.0.

    Example:
        @dataclass(frozen=True)
        class Zero(skipcache.Predictor):  # the deep blocks add nothing
            residual, depth = True, 1
            def weights(self, step, full_steps): return ()
            def predict(self, H, kept, weights): return H
    """

    @property
    def residual(self) -> bool:
        """True: a full step leaves R = D - H. False: it leaves D."""

    @property
    def depth(self) -> int:
        """How many full steps' indices are remembered. Raising it holds no more tensors by itself."""

    def remember(self, feature: Streams, kept: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
        """Prepare, once per full step, what `predict` will read. Here: the features themselves, the latest first.

        Args:
            feature: what this full step left, R or D, one tensor per stream.
            kept: what this method returned at the full step before; empty at the first one.
            full_steps: indices of the last full steps, this one first; at most `depth`.

        Returns streams of the same shapes. Return as many from the first full step on: else the fx engine builds
        one graph for each number.
        """
        return [feature, *kept][: self.depth]

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        """The numbers that `predict` needs at `step`; `full_steps` has the latest first.

        A calibration multiplies them by its slope, so they scale what `predict` adds, and nothing else.
        """

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        """D-hat, in the shapes of D.

        Args:
            H: the fresh shallow feature; None where D was kept, because R cannot be formed or `residual` is False.
            kept: what `remember` returned at the last full step.
            weights: those of this step; in a graph 0-d float64 tensors.
        """


@dataclass(frozen=True)
class Prediction:
    """All that a cached step needs beside its arguments.

    `residual`: what is kept was made of R = D - H, not of D. `observe` is called with the step's fresh H when the step
    is over, with None where H cannot be told apart; policies that follow H need it.
    """

    predictor: Predictor
    kept: Sequence[Streams]
    weights: Sequence[float]
    residual: bool
    observe: Callable[[Streams | None], None] | None = None

    @property
    def reads_H(self) -> bool:
        """The step's H is needed, so that its head must run."""
        return self.residual or self.observe is not None

    def __call__(self, H: Streams | None) -> Streams:
        """D-hat from the fresh H."""
        return self.predictor.predict(H if self.residual else None, self.kept, self.weights)

    def saw(self, H: Streams | None) -> None:
        """The step is over, and had this H."""
        if self.observe is not None:
            self.observe(H)


def remembering(predictor: Predictor, total: Total | None) -> Callable[..., Sequence[Streams]]:
    """`remember`, or what takes its place where several processes hold parts of one image, `remember_parts`.

    It is an optional member, for predictors that sum over tokens: `remember` with one more argument, `total`, which
    sums a tensor over these processes.
    """
    parts = None if total is None else getattr(predictor, "remember_parts", None)
    return predictor.remember if parts is None else partial(parts, total=total)


def remembered(predictor: Predictor, features: Sequence[Streams], full_steps: Sequence[int]) -> Sequence[Streams]:
    """What `predictor` keeps after full steps that left `features`; both have the latest first."""
    kept: Sequence[Streams] = []
    for i in reversed(range(len(full_steps))):
        kept = predictor.remember(features[i], kept, full_steps[i:][: predictor.depth])
    return kept
