"""What one lane's full steps left behind, and what its last outputs were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from skipcache.blocks import Streams, memory_of
from skipcache.predictors import Prediction, Predictor, Total, remembering
from skipcache.trajectory.drift import Drift


class FeatureCache:
    """The cached features of one lane.

    Attributes:
        full_steps: indices of the last full steps that were recorded, the latest first.
        kept: what the predictor made of them.
        residual: `kept` was made of R = D - H, not of D.
        outputs: (step, output of the model before any correction) of the last two steps.
        drift: how far H has moved, where the policy asks for it.
    """

    def __init__(self, follows: bool = False) -> None:
        self.full_steps: list[int] = []
        self.kept: Sequence[Streams] = ()
        self.residual = False
        self.outputs: list[tuple[int, Tensor]] = []
        self.drift = Drift() if follows else None
        self._shapes: list[tuple[int, ...]] | None = None  # of the features that `kept` was made of

    @property
    def last_full(self) -> int:
        """The index of the last full step that was recorded; -1 where there is none."""
        return self.full_steps[0] if self.full_steps else -1

    def record(
        self, step: int, H: Streams | None, D: Streams, predictor: Predictor, total: Total | None = None
    ) -> None:
        """Keep what `predictor` needs of a full step: R = D - H, or D where R is not asked for or cannot be formed.

        `total`: sums over the processes that hold other tokens of the same images, for predictors that sum over tokens.
        """
        residual = predictor.residual and H is not None and shapes_of(H) == shapes_of(D)
        feature = tuple(d - h for h, d in zip(H, D)) if residual and H is not None else D
        before = self.residual, self._shapes
        self.residual, self._shapes = residual, shapes_of(feature)
        if before != (self.residual, self._shapes):
            self.forget()
        self.full_steps = [step, *self.full_steps][: predictor.depth]
        remember = remembering(predictor, total)
        self.kept = remember(feature, self.kept, self.full_steps)
        if self.drift is not None:
            self.drift.follow(H, full=True)

    def predict(self, step: int, predictor: Predictor, slope: float = 1.0) -> Prediction:
        """The prediction of D at a cached step; the predictor's weights are multiplied by `slope`."""
        weights = tuple(w * slope for w in predictor.weights(step, self.full_steps))
        observe = None if self.drift is None else self.drift.follow
        return Prediction(predictor, self.kept, weights, self.residual, observe)

    def note_output(self, step: int, output: Tensor) -> None:
        """Keep the model's own output of this step, and that of the step before."""
        self.outputs = [(step, output), *(held for held in self.outputs if held[0] == step - 1)]

    def outputs_before(self, step: int) -> list[Tensor]:
        """The outputs of the steps right before `step`, the latest first."""
        return [x for i, (at, x) in enumerate(self.outputs) if at == step - 1 - i]

    def keep_apart(self, owned: Iterable[Tensor]) -> None:
        """Copy what lies in one memory with tensors that someone else owns, and may write to."""
        held = self.tensors
        taken = {memory_of(x) for x in owned} if held else set()
        if not any(memory_of(x) in taken for x in held):
            return

        def own(streams: Streams) -> Streams:
            return tuple(x.clone() if memory_of(x) in taken else x for x in streams)

        self.kept = [own(streams) for streams in self.kept]
        self.outputs = [(step, own((x,))[0]) for step, x in self.outputs]
        if self.drift is not None and self.drift.H is not None:
            self.drift.H = own(self.drift.H)

    def forget(self) -> None:
        """Drop the features: the next call of the lane is a full step."""
        self.full_steps, self.kept = [], ()
        self.drift = None if self.drift is None else Drift()

    @property
    def tensors(self) -> list[Tensor]:
        """All that is held."""
        held = [x for feature in self.kept for x in feature] + [x for _, x in self.outputs]
        return held + list(self.drift.H or () if self.drift is not None else ())


def shapes_of(streams: Streams) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in streams]


def keep_to(limit: int, runs: Sequence[Any]) -> int:
    """Release runs, in their order, until the tensors of all take `limit` bytes; how many were released."""
    sizes = [bytes_of(run.tensors) for run in runs]
    total, evicted = sum(sizes), 0
    for run, size in zip(runs, sizes):
        if total > limit and size:
            run.release()
            total, evicted = total - size, evicted + 1
    return evicted


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
