"""A small classifier of the digits. It judges the class of a sample, and gives features for distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipcache.benchmarks.references.data.digits import CLASSES, digits, split
from skipcache.benchmarks.sampling.metrics import accuracy
from skipcache.benchmarks.training.task import Recipe, Task
from skipcache.benchmarks.training.weights_file import FOLDER, load_weights

NAME = "digits-classifier"
RECIPE = Recipe(steps=1500, batch=128, lr=3e-3, warmup=50, ema=0.99)


class DigitsClassifier(nn.Module):
    """`features` gives the 64 numbers before the last layer, for distances between sets of samples."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(8 * width, 2 * width),
            nn.GELU(),
        )
        self.head = nn.Linear(2 * width, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """(N, 1, 8, 8) in [-1, 1] -> (N, 64)."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def task() -> Task:
    images, labels = digits()
    train, held_out = split()

    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        index = train[torch.randint(len(train), (batch,), generator=generator)]
        return F.cross_entropy(model(_moved(images[index], generator)), labels[index])

    def score(model: nn.Module) -> dict[str, float]:
        return {
            "train_accuracy": accuracy(model, images[train], labels[train]),
            "held_out_accuracy": accuracy(model, images[held_out], labels[held_out]),
        }

    return Task(NAME, DigitsClassifier, loss, score, RECIPE)


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by a fraction of a pixel and noised, because 1437 images are soon learned by heart."""
    n = len(images)
    theta = torch.eye(2, 3).repeat(n, 1, 1)  # (n, 2, 3)
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) - 0.5) * 0.35  # up to 0.7 of a pixel
    theta[:, :, :2] += (torch.rand(n, 2, 2, generator=generator) - 0.5) * 0.3
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved + 0.1 * torch.randn(images.shape, generator=generator)


def load_judge() -> nn.Module:
    """The shipped classifier."""
    return load_weights(DigitsClassifier(), FOLDER / f"{NAME}.safetensors")
