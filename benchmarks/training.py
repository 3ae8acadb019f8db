"""Train a small model from scratch, resumably: killed and started again, the run ends with the same bits.

Every draw of step k comes from a generator seeded by (seed, k), so a checkpoint needs no random state: model,
moving average and optimiser are all of it. What is trained is a `Task`: the trainer knows no data, loss or
denoiser, and touches only parameters that require a gradient, so that a task may freeze part of its model.

Where torch.distributed is initialised every process draws batches of its own, and DDP makes one step of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, is_initialized
from torch.nn.parallel import DistributedDataParallel


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

    `then` makes the next stage of what this one has trained; `show` draws it, at a path without suffix.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.Generator, int], Tensor]
    score: Callable[[nn.Module], dict[str, float]]
    recipe: Recipe
    then: Callable[[nn.Module], Task] | None = None
    show: Callable[[nn.Module, Path], list[Path]] | None = None


def train(
    task: Task,
    checkpoint: Path,
    *,
    seed: int = 0,
    every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """The trained model with averaged weights; goes on from `checkpoint` if it exists.

    `on_step(steps_done, loss)` is called after each step, e.g. to move a progress bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build()
    average = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], weight_decay=task.recipe.weight_decay, fused=True
    )
    settings = {"name": task.name, "seed": seed, **asdict(task.recipe)}
    first = _resume(checkpoint, settings, model, average, optimizer)
    wrapped = DistributedDataParallel(model) if is_initialized() else model
    for step in range(first, task.recipe.steps):
        loss = _step(task, wrapped, optimizer, seed, step)
        _follow(average, model, min(task.recipe.ema, (1 + step) / (10 + step)))
        if is_first() and ((step + 1) % every == 0 or step + 1 == task.recipe.steps):
            _save(checkpoint, settings, step + 1, model, average, optimizer)
        if on_step is not None:
            on_step(step + 1, loss)
    model.load_state_dict(average, strict=False)
    return model.eval()


def _step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, step: int) -> float:
    rank = get_rank() if is_initialized() else 0
    generator = torch.Generator().manual_seed((seed + 1000 * rank) * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = task.recipe.rate(step)
    loss = task.loss(model, generator, task.recipe.batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    parameters = dict(model.named_parameters())
    names = list(average)
    torch._foreach_lerp_([average[n] for n in names], [parameters[n] for n in names], 1 - decay)


def _save(
    path: Path,
    settings: dict[str, Any],
    step: int,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write beside, then rename: a kill in mid-write leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": settings,
        "step": step,
        "model": model.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
    }
    beside = path.with_suffix(".writing")
    torch.save(state, beside)
    os.replace(beside, path)


def _resume(
    path: Path,
    settings: dict[str, Any],
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """The step to go on with: 0 without a checkpoint; a checkpoint of other settings is refused."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != settings:
        raise ValueError(
            f"{path} belongs to a run with other settings: expected {settings}, got {state['settings']}; "
            "delete it, or give another --out"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    return int(state["step"])


def shortened(task: Task, steps: int | None) -> Task:
    """The task and all that follows it with another number of steps; None keeps the recipe's."""
    if steps is None:
        return task
    then = task.then
    following = None if then is None else lambda model: shortened(then(model), steps)
    return replace(task, recipe=replace(task.recipe, steps=steps), then=following)


def is_first() -> bool:
    """This process writes and prints."""
    return not is_initialized() or get_rank() == 0
