"""Hold: the deep feature of the last full step, as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipcache.blocks import Streams
from skipcache.predictors.base import Predictor


@dataclass(frozen=True)
class Hold(Predictor):
    """D-hat = D of the last full step: the paper's Skip-Cache (arXiv 2411.17616, section 3.3).

    Nothing reads H, so the head does not run on cached steps, except under skip branches. One deep feature is kept.

    Example:
        skipcache.accelerate(pipe, interval=2, predictor=skipcache.Hold())
    """

    residual = False
    depth = 1

    def weights(self, step: int, full_steps: Sequence[int]) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Sequence[Streams], weights: Sequence[float]) -> Streams:
        return tuple(kept[0])
