"""`skipcache train`: the references and their judges, from scratch."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.train import TrainSettings


def run(settings: TrainSettings, console: Console) -> None:
    from skipcache.benchmarks.references.train import run_training

    run_training(
        settings.model, settings.out, console, seed=settings.seed, steps=settings.steps, threads=settings.threads
    )


COMMAND = Command("train", "train a reference model from scratch; resumable", TrainSettings, run)
