"""Training a denoiser: the DDPM loss (arXiv 2006.11239), or that of v (arXiv 2202.00512), with dropped conditions
(arXiv 2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TRAIN_STEPS = 1000
BETAS = (1e-4, 0.02)  # linear, as in DDPM and as diffusers' schedulers have it by default


@dataclass(frozen=True)
class Data:
    """Clean samples (N, ...), the class of each (N,), and what a class means to the denoiser.

    `table` maps the name of a condition argument to one row per class, plus a last row that means "no
    condition": what guidance compares with. A class may be a digit, a caption, anything that can be judged;
    `names` says in words what each is.
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


def denoising_loss(
    data: Data, prediction: str = "epsilon", drop: float = 0.1
) -> Callable[[nn.Module, torch.Generator, int], Tensor]:
    """Mean squared error of the predicted noise, or of v; timesteps are spread evenly, for a steadier gradient.

    `prediction` is a diffusers scheduler's prediction_type, "epsilon" or "v_prediction": v = sqrt(a) noise -
    sqrt(1 - a) clean asks for the clean sample where there is little of it, and so for what goes where.
    """
    alpha_bar = torch.cumprod(1 - torch.linspace(*BETAS, TRAIN_STEPS), 0)

    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(data.samples), (batch,), generator=generator)
        clean = data.samples[index]
        uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        t = (uniform * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)
        dropped = torch.rand(batch, generator=generator) < drop
        labels = data.labels[index].masked_fill(dropped, data.classes)
        noise = torch.randn(clean.shape, generator=generator)
        a = alpha_bar[t].view(-1, *[1] * (clean.ndim - 1))  # (batch, 1, ..., 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        predicted = model(noisy, timestep=t, **data.conditions(labels), return_dict=False)[0]
        target = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
        return (predicted - target).square().mean()

    return loss
