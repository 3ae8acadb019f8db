"""diffusers' own pipeline of Stable Diffusion 3, around a small denoiser and autoencoder."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.references.data.dataset import Data


class TextToImagePipeline(diffusers.StableDiffusion3Pipeline):
    """`pipe(data, labels, ...)` samples one image per label; the rest is the class of diffusers as it is."""

    @classmethod
    def around(cls, transformer: nn.Module, scheduler: Any, vae: nn.Module) -> TextToImagePipeline:
        """Without text encoders: what they would give is in `data`."""
        parts = dict.fromkeys(
            ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
        )
        pipe = cls(transformer=transformer, scheduler=scheduler, vae=vae, **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @torch.no_grad()
    def __call__(self, data: Data, labels: Tensor, *, steps: int = 28, guidance: float = 3.0, seed: int = 0) -> Tensor:
        """Samples in [0, 1], float32 on the CPU; the same seed draws the same noise on every device."""
        device, dtype = self.transformer.device, self.transformer.dtype
        config = self.transformer.config
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(
            len(labels), config.in_channels, config.sample_size, config.sample_size, generator=generator
        )
        asked, null = (
            {name: rows.to(device, dtype) for name, rows in data.conditions(which).items()}
            for which in (labels, torch.full_like(labels, data.classes))
        )
        images = super().__call__(
            prompt_embeds=asked["encoder_hidden_states"],
            pooled_prompt_embeds=asked["pooled_projections"],
            negative_prompt_embeds=null["encoder_hidden_states"],
            negative_pooled_prompt_embeds=null["pooled_projections"],
            guidance_scale=guidance,
            num_inference_steps=steps,
            height=config.sample_size * self.vae_scale_factor,
            width=config.sample_size * self.vae_scale_factor,
            latents=noise.to(device, dtype),
            output_type="pt",
            return_dict=False,
        )[0]
        return images.float().cpu()
