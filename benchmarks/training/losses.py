"""The loss of a denoiser: DDPM's (arXiv 2006.11239), that of v (arXiv 2202.00512), or that of rectified flow
(arXiv 2209.03003), with conditions dropped at random for guidance (arXiv 2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skipcache.benchmarks.names.schedulers import BETAS, TRAIN_STEPS
from skipcache.benchmarks.references.data.dataset import Data


def denoising_loss(
    data: Data, prediction: str = "epsilon", drop: float = 0.1
) -> Callable[[nn.Module, torch.Generator, int], Tensor]:
    """Mean squared error of the predicted noise, or of v. Timesteps are spread evenly, for a steadier gradient.

    `prediction` is a diffusers scheduler's prediction_type, "epsilon" or "v_prediction". The target v = sqrt(a) noise -
    sqrt(1 - a) clean is mostly the clean sample where the input is mostly noise. So the model learns the layout.
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


def flow_loss(
    clean: Tensor, labels: Tensor, data: Data, drop: float = 0.1
) -> Callable[[nn.Module, torch.Generator, int], Tensor]:
    """Mean squared error of the predicted velocity, noise - clean, on the straight line between the two.

    The noise levels are logit-normal, as in Stable Diffusion 3 (arXiv 2403.03206), and spread evenly over their
    distribution. `clean` are the samples, or latents of them, and `labels` their classes in `data`.
    """

    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(clean), (batch,), generator=generator)
        uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        sigma = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()  # (batch,)
        dropped = torch.rand(batch, generator=generator) < drop
        asked = labels[index].masked_fill(dropped, data.classes)
        noise = torch.randn(clean[index].shape, generator=generator)
        velocity = noise - clean[index]
        noisy = clean[index] + sigma.view(-1, *[1] * (clean.ndim - 1)) * velocity
        timestep = sigma * TRAIN_STEPS
        predicted = model(noisy, timestep=timestep, **data.conditions(asked), return_dict=False)[0]
        return (predicted - velocity).square().mean()

    return loss
