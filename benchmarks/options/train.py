"""The options of `skipcache train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.names.models import TRAINABLE
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked
from skipcache.benchmarks.options.option import option, positional


@dataclass(frozen=True)
class TrainSettings(Checked):
    """A reference model, trained from scratch."""

    model: str = positional("a reference denoiser, a judge of samples, or an autoencoder", choices=TRAINABLE)
    seed: int = option(0, "of the first weights and of every batch")
    steps: int | None = option(
        None,
        "training steps",
        least=1,
        why="leave it out for those of the shipped weights",
        shown="those of the shipped weights",
    )
    threads: int | None = shared.threads()
    out: Path = shared.out("train-out", "checkpoint and weights")
