"""`skipcache train`: trains a reference model from scratch. Started again, it continues.

`torchrun --nproc-per-node 2 -m skipcache.benchmarks train ...` does it on several processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

from skipcache.benchmarks.references.registry import find_task
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.training.task import Task, shortened
from skipcache.benchmarks.training.trainer import is_first, train
from skipcache.benchmarks.training.weights_file import save_weights


def run_training(
    name: str,
    out: Path,
    console: Console,
    *,
    seed: int = 0,
    steps: int | None = None,
    threads: int | None = None,
) -> Path:
    """Writes `<out>/<name>.safetensors` and pictures of samples beside the checkpoint; returns the weights' path."""
    task: Task | None = shortened(find_task(name), steps)
    use_threads(threads)
    with _processes() as first:
        console.quiet = not first
        while task is not None:
            model, weights = _run_stage(task, out, seed, console)
            task = None if task.then is None else task.then(model)
    return weights


def _run_stage(task: Task, out: Path, seed: int, console: Console) -> tuple[nn.Module, Path]:
    """The trained model, and where its weights are."""
    checkpoint, weights = out / f"{task.name}.checkpoint", out / f"{task.name}.safetensors"
    if checkpoint.exists():
        console.print(f"going on from {checkpoint}", highlight=False)
    model = _train_with_progress(task, checkpoint, seed, console)
    model = model if task.finish is None else task.finish(model)
    if is_first():
        scores = task.score(model)
        settings = {"name": task.name, "seed": seed, "recipe": asdict(task.recipe), "torch": torch.__version__}
        save_weights(model, weights, {**settings, "scores": scores})
        drawn = [] if task.show is None else task.show(model, weights.with_suffix(""))
        judged = ", ".join(f"{key} {value:.1%}" for key, value in scores.items())
        console.print(f"{judged}. Wrote {', '.join(map(str, [weights, *drawn]))}", highlight=False)
    return model, weights


@contextmanager
def _processes() -> Iterator[bool]:
    """Under torchrun, join the other processes; yields whether this is the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    dist.init_process_group("gloo")  # the reference models train on the CPU
    try:
        yield is_first()
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _train_with_progress(task: Task, checkpoint: Path, seed: int, console: Console) -> nn.Module:
    with progress_bar(console, task.name, task.recipe.steps, note="loss -") as bar:
        mean = float("nan")

        def on_step(step: int, loss: float) -> None:
            """Shows a running mean: the loss of one batch says little."""
            nonlocal mean
            mean = loss if mean != mean else 0.98 * mean + 0.02 * loss
            bar.reach(step, note=f"loss {mean:.4f}")

        return train(task, checkpoint, seed=seed, on_step=on_step)
