"""What a reference is trained on, whatever the data: samples, their classes, and the conditions of a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """Clean samples and their conditions. A class may be a digit, a caption, anything that can be judged.

    Attributes:
        samples: (N, ...), in [-1, 1].
        labels: (N,), the class of each sample.
        table: name of a condition argument -> one row per class, and a last row that means "no condition", which
            guidance compares with.
        names: each class in words.
    """

    samples: Tensor
    labels: Tensor
    table: dict[str, Tensor]
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(next(iter(self.table.values()))) - 1

    def conditions(self, labels: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the denoiser; label `classes` is the null condition."""
        return {name: rows[labels] for name, rows in self.table.items()}


def balanced(batch: int, classes: int) -> Tensor:
    """Labels 0, 1, 2, ... in turn, so that every class is asked for equally often."""
    return torch.arange(batch) % classes
