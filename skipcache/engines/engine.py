"""What an engine is: it runs full and cached steps of a model, and says what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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


class Engine(Protocol):
    """Two engines give results that are equal to the bit; each serves calls by their signature."""

    name: str
    stack: Stack

    def attach(self) -> None:
        """Put on the model what the engine needs there, once."""

    def detach(self) -> None:
        """Take it off again."""

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
