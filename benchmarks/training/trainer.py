"""Trains a small model from scratch. A run that is killed and started again ends with the same bits.

Every draw of step k comes from a generator seeded by (seed, k), so a checkpoint needs no random state: model,
moving average and optimiser are all of it. What is trained is a `Task`: the trainer knows no data, loss or
denoiser, and touches only parameters that require a gradient, so that a task may freeze part of its model.

Where torch.distributed is initialised every process draws batches of its own, and DDP makes one step of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, is_initialized
from torch.nn.parallel import DistributedDataParallel

from skipcache.benchmarks.training.checkpoint import resume, save
from skipcache.benchmarks.training.task import Task


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
    first = resume(checkpoint, settings, model, average, optimizer)
    wrapped = DistributedDataParallel(model) if is_initialized() else model
    for step in range(first, task.recipe.steps):
        loss = _step(task, wrapped, optimizer, seed, step)
        _follow(average, model, min(task.recipe.ema, (1 + step) / (10 + step)))
        if is_first() and ((step + 1) % every == 0 or step + 1 == task.recipe.steps):
            save(checkpoint, settings, step + 1, model, average, optimizer)
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


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not is_initialized() or get_rank() == 0
