"""What an engine is: it runs full and cached steps of a model, and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import nn

from skipcache.blocks import Streams
from skipcache.predictors import Prediction
from skipcache.stack import Stack
from skipcache.trajectory import Call


class Features(NamedTuple):
    """What a full step leaves, one tensor per stream, in the stack's canonical layout.

    H is None where what enters the first deep block cannot be told apart.
    """

    H: Streams | None
    D: Streams


@dataclass(frozen=True)
class StepResult:
    """What an engine did for one call.

    Attributes:
        output: of the model.
        blocks_run: how many blocks of the stack computed. Trials that prove a step are not counted.
        full: all blocks ran, whatever was asked for.
        features: of a full step that cached steps may follow, else None.
        engine: the name of the one that left the features.
        reason: why a full step left no features, or why one ran in the place of a cached step, if the engine knows.
    """

    output: Any
    blocks_run: int
    full: bool = True
    features: Features | None = None
    engine: str = ""
    reason: str | None = None


def beside(H: Streams | None, D: Sequence[Any]) -> Streams | None:
    """H on the devices of D: under a `device_map` they lie on two, and predictors compute with both.

    `D` may be outlines.
    """
    if H is None or len(H) != len(D):
        return H
    return tuple(h if h.device == d.device else h.to(d.device) for h, d in zip(H, D))


class Engine(Protocol):
    """Two engines give results that are equal to the bit; each serves calls by their signature."""

    name: str
    stack: Stack

    def attach(self) -> None:
        """Put on the model what the engine needs there, once."""

    def detach(self) -> None:
        """Take it off again."""

    def close(self) -> None:
        """Take it off for good: `attach` does nothing any more, though a step on another thread may still call it."""

    def forget(self) -> None:
        """Drop all that was learned of signatures."""

    def refusal(self, call: Call) -> str | None:
        """Why calls like this one cannot be cached; None where they can, or where that is not known yet."""

    def serves(self, call: Call) -> bool:
        """A full step of this signature was seen and proved, and cached steps may follow."""

    def can_cache(self, call: Call, prediction: Prediction) -> bool:
        """A cached step can be made for this call and this kind of prediction."""

    def full(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """A full step. `forward` runs the model as it is; it serves where the engine cannot."""

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> StepResult:
        """A cached step, after `can_cache`; a full one where that turns out wrong on the way."""

    def rehearsal(self, copy: nn.Module, call: Call) -> Iterator[Callable[[], Any]]:
        """Functions that run a full step, then a cached one, of `call` on `copy`, a copy of the model without weights.

        Each is run before the next is asked for. No cached one where the copy shows that it cannot be.
        """
