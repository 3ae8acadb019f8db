"""What a reference denoiser is: how it is built, trained, loaded, sampled and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from skipcache.benchmarks.names.schedulers import FLOW
from skipcache.benchmarks.references.data.dataset import Data, balanced
from skipcache.benchmarks.sampling.metrics import class_accuracy
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline
from skipcache.benchmarks.sampling.schedulers import make_scheduler
from skipcache.benchmarks.show.pictures import draw_grid
from skipcache.benchmarks.training.losses import denoising_loss
from skipcache.benchmarks.training.task import Recipe, Task
from skipcache.benchmarks.training.weights_file import FOLDER, load_weights

GRID = 30  # samples in the picture that a training ends with


@dataclass(frozen=True)
class Reference:
    """A denoiser, its data and how it is trained; `judge()` gives a classifier of samples in [-1, 1].

    `prediction` is what the model predicts, as a scheduler's prediction_type; `pipe(model, scheduler)` makes the
    pipeline that samples it.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], Data]
    judge: Callable[[], nn.Module]
    recipe: Recipe
    stages: Callable[[Reference], Task] | None = None  # in place of `build`, the usual loss and `recipe`
    prediction: str = "epsilon"
    pipe: Callable[[nn.Module, Any], Any] = ReferencePipeline
    latent_shape: tuple[int, ...] = ()  # of what is denoised, where it is not a sample itself

    @property
    def usual_scheduler(self) -> str:
        """The sampler where none is named."""
        return "euler" if self.prediction == FLOW else "ddim"

    def load(self, weights: Path | None = None) -> nn.Module:
        """With the shipped weights, or those of a file that `skipcache train` wrote."""
        return load_weights(self.build(), weights or FOLDER / f"{self.name}.safetensors")

    def pipeline(self, model: nn.Module, scheduler: str | None = None) -> Any:
        """Around `model`, with a scheduler that takes what this reference predicts."""
        return self.pipe(model, make_scheduler(scheduler or self.usual_scheduler, self.prediction))

    def task(self) -> Task:
        if self.stages is not None:
            return self.stages(self)
        loss = denoising_loss(self.data(), self.prediction)
        return Task(self.name, self.build, loss, self.score, self.recipe, show=self.show)

    def score(self, model: nn.Module, batch: int = 100) -> dict[str, float]:
        """Share of samples of the class asked for, with the usual sampler and guidance 3."""
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
