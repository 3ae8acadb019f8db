"""The smallest diffusers pipelines around a denoiser: batched guidance, any scheduler, no VAE."""

from __future__ import annotations

import inspect
import os
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.diffusion import BETAS, TRAIN_STEPS, Data
from skipcache.benchmarks.settings import SCHEDULERS


def usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: expected one torch can use, got {name!r}; try cpu. {reason}") from None
    return device


def use_threads(threads: int | None) -> None:
    """All cores where no number is given."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def make_scheduler(name: str, prediction: str = "epsilon") -> Any:
    """A diffusers scheduler on the noise levels that the reference denoisers are trained with."""
    cls, options = SCHEDULERS[name]
    return getattr(diffusers, cls)(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        prediction_type=prediction,
        **options,
    )


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
