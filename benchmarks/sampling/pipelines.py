"""The smallest diffusers pipelines around a denoiser: batched guidance, any scheduler, no VAE."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.references.data.dataset import Data


class DenoiserPipeline(diffusers.DiffusionPipeline):
    """A denoiser and a scheduler, and nothing else; `skipcache.accelerate(pipe)` works as on any."""

    transformer: Any
    scheduler: Any

    def __init__(self, transformer: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)


class ReferencePipeline(DenoiserPipeline):
    """`pipe(data, labels, ...)` samples one image per label."""

    @torch.no_grad()
    def __call__(self, data: Data, labels: Tensor, *, steps: int = 50, guidance: float = 3.0, seed: int = 0) -> Tensor:
        """Samples in [0, 1], float32 on the CPU; the same seed draws the same noise on every device."""
        generator = torch.Generator().manual_seed(seed)
        device, dtype = self.transformer.device, self.transformer.dtype
        both = torch.cat([labels, torch.full_like(labels, data.classes)])
        conditions = {
            name: rows.to(device, dtype if rows.is_floating_point() else None)
            for name, rows in data.conditions(both).items()
        }
        self.scheduler.set_timesteps(steps, device=device)
        shape = (len(labels), *data.samples.shape[1:])
        x = torch.randn(shape, generator=generator).to(device) * self.scheduler.init_noise_sigma
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(torch.cat([x, x]), t)  # (2 * batch, ...)
            noise = self.transformer(scaled.to(dtype), timestep=t.expand(len(both)), **conditions, return_dict=False)[
                0
            ].float()
            asked, null = noise.chunk(2)
            x = self.scheduler.step(null + guidance * (asked - null), t, x, **extra).prev_sample
        return (x.cpu() / 2 + 0.5).clamp(0, 1)
