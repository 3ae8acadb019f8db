"""The reference denoisers: small, really trained, shipped. One module each; all else here is shared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from skipcache.benchmarks.diffusion import Data, denoising_loss
from skipcache.benchmarks.metrics import accuracy
from skipcache.benchmarks.pictures import draw_grid
from skipcache.benchmarks.sampling import ReferencePipeline, make_scheduler
from skipcache.benchmarks.shipped import FOLDER, load_weights
from skipcache.benchmarks.training import Recipe, Task

MODULES = {
    "dit-digits": "skipcache.benchmarks.dit_digits",
    "dit-digits-skip": "skipcache.benchmarks.dit_digits_skip",
    "dit-digits-add": "skipcache.benchmarks.dit_digits_add",
    "pixart-shapes": "skipcache.benchmarks.pixart_shapes",
    "latte-digits": "skipcache.benchmarks.latte_digits",
}
# What judges their samples: classifiers, each with a `task()` of its own.
JUDGES = {
    "digits-classifier": "skipcache.benchmarks.classifier",
    "shapes-judge": "skipcache.benchmarks.shapes_judge",
    "moving-digits-judge": "skipcache.benchmarks.moving_digits_judge",
}
GRID = 30  # samples in the picture that a training ends with


@dataclass(frozen=True)
class Reference:
    """A denoiser, its data and how it is trained; `judge()` gives a classifier of samples in [-1, 1].

    `prediction` is what the model predicts, as a scheduler's prediction_type.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], Data]
    judge: Callable[[], nn.Module]
    recipe: Recipe
    stages: Callable[[Reference], Task] | None = None  # in place of `build`, the usual loss and `recipe`
    prediction: str = "epsilon"

    def load(self, weights: Path | None = None) -> nn.Module:
        """With the shipped weights, or those of a file that `skipcache train` wrote."""
        return load_weights(self.build(), weights or FOLDER / f"{self.name}.safetensors")

    def pipeline(self, model: nn.Module, scheduler: str = "ddim") -> ReferencePipeline:
        """Around `model`, with a scheduler that takes what this reference predicts."""
        return ReferencePipeline(model, make_scheduler(scheduler, self.prediction))

    def task(self) -> Task:
        if self.stages is not None:
            return self.stages(self)
        loss = denoising_loss(self.data(), self.prediction)
        return Task(self.name, self.build, loss, self.score, self.recipe, show=self.show)

    def score(self, model: nn.Module, batch: int = 100) -> dict[str, float]:
        """Share of samples of the class asked for, at 50 DDIM steps and guidance 3."""
        data = self.data()
        labels = balanced(batch, data.classes)
        samples = self.pipeline(model)(data, labels)
        return {"class_accuracy": class_accuracy(self.judge(), samples, labels)}

    def show(self, model: nn.Module, path: Path) -> list[Path]:
        """A grid of samples, at `path` with the suffix .png, and .gif where they are videos."""
        data = self.data()
        labels = balanced(GRID, data.classes)
        samples = self.pipeline(model)(data, labels)
        return draw_grid(path, samples, [data.names[label] for label in labels])


def find_reference(name: str) -> Reference:
    if name not in MODULES:
        raise ValueError(f"expected one of {', '.join(MODULES)}, got {name!r}")
    reference: Reference = importlib.import_module(MODULES[name]).reference()
    return reference


def balanced(batch: int, classes: int) -> Tensor:
    """Labels 0, 1, 2, ... in turn, so that every class is asked for equally often."""
    return torch.arange(batch) % classes


@torch.no_grad()
def class_accuracy(judge: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Share of samples (in [0, 1]) that the classifier takes for their label."""
    return accuracy(judge, samples * 2 - 1, labels)
