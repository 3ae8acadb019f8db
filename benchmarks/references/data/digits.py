"""Real handwriting: scikit-learn's 1797 digits of 8x8 pixels, as tensors in [-1, 1]. No download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLASSES = 10


def digits() -> tuple[Tensor, Tensor]:
    """(images of (1797, 1, 8, 8) in [-1, 1], labels of (1797,))."""
    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1  # pixels are 0 to 16
    return images, torch.as_tensor(data.target, dtype=torch.long)


def split(held_out: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Index tensors (train, held out) over the images, the same on every call."""
    order = torch.randperm(len(digits()[0]), generator=torch.Generator().manual_seed(seed))
    cut = round(len(order) * (1 - held_out))
    return order[:cut], order[cut:]
