"""What is trained, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How long and how fast: AdamW, linear warm-up, cosine decay to zero, a moving average of the weights."""

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999  # higher averages over more steps: smoother samples, slower to follow

    def __post_init__(self) -> None:
        for field in ("steps", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: expected at least 1, got {getattr(self, field)}")

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Task:
    """What is trained: `loss(model, generator, batch)` draws its own batch; `score` judges the result.

    `finish` is the last touch to what is trained, before it is judged and saved; `then` makes the next stage of it;
    `show` draws it, at a path without suffix.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.Generator, int], Tensor]
    score: Callable[[nn.Module], dict[str, float]]
    recipe: Recipe
    then: Callable[[nn.Module], Task] | None = None
    show: Callable[[nn.Module, Path], list[Path]] | None = None
    finish: Callable[[nn.Module], nn.Module] | None = None


def shortened(task: Task, steps: int | None) -> Task:
    """The task, and the tasks after it, with another number of steps; None keeps the recipe's."""
    if steps is None:
        return task
    then = task.then
    following = None if then is None else lambda model: shortened(then(model), steps)
    return replace(task, recipe=replace(task.recipe, steps=steps), then=following)
