"""`emoji-autoencoder`: diffusers' AutoencoderKL, 32x32 pictures to 8x8 latents of 4 channels, and back.

Its file also holds the latents of all pictures, so that only its training needs the pictures themselves.
"""

from __future__ import annotations

from functools import cache

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from skipcache.benchmarks.references.data.emoji import labels, pictures
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.training.task import Recipe, Task
from skipcache.benchmarks.training.weights_file import FOLDER, load_weights

NAME = "emoji-autoencoder"
CHANNELS, SIDE = 4, 8  # of the latents
KL = 1e-5  # weight of the divergence: just enough to keep the latents smooth
BATCH = 250  # pictures at once where no gradient is needed


class EmojiAutoencoder(nn.Module):
    """The autoencoder `kl`, and `latents` of all pictures, in the order of `labels`."""

    def __init__(self) -> None:
        super().__init__()
        self.kl = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64),
            latent_channels=CHANNELS,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=1.0,  # `finished` scales the latents
            shift_factor=0.0,
            mid_block_add_attention=False,
        )
        self.latents: Tensor
        self.register_buffer("latents", torch.zeros(len(labels()), CHANNELS, SIDE, SIDE))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) in [-1, 1] -> (N, 4, 8, 8)."""
        return torch.cat([self.kl.encode(part).latent_dist.mean for part in images.split(BATCH)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(N, 4, 8, 8) -> (N, 3, 32, 32), nearly in [-1, 1]."""
        return torch.cat([self.kl.decode(part).sample for part in latents.split(BATCH)])


def task() -> Task:
    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        images = pictures()[torch.randint(len(pictures()), (batch,), generator=generator)]
        latents = model.kl.encode(images).latent_dist  # type: ignore[union-attr, operator]
        noise = torch.randn(latents.mean.shape, generator=generator)
        missed = model.kl.decode(latents.mean + latents.std * noise).sample - images  # type: ignore[union-attr, operator]
        return missed.abs().mean() + missed.square().mean() + KL * latents.kl().mean()

    def score(model: nn.Module) -> dict[str, float]:
        decoded = model.decode(model.latents).clamp(-1, 1)  # type: ignore[operator]
        return {"ssim": compare(decoded / 2 + 0.5, pictures() / 2 + 0.5).ssim}

    recipe = Recipe(steps=2500, batch=8, lr=2e-3, warmup=100, ema=0.99)
    return Task(NAME, EmojiAutoencoder, loss, score, recipe, finish=finished)


@torch.no_grad()
def finished(model: nn.Module) -> nn.Module:
    """Scales the latents to mean 0 and deviation 1 per channel, by the 1x1 convolutions, and keeps those of all."""
    assert isinstance(model, EmojiAutoencoder)
    into, out = model.kl.quant_conv, model.kl.post_quant_conv
    latents = model.encode(pictures())
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))  # (channels,)
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[:, None, None]
    into.weight[:CHANNELS] /= std[:, None, None, None]
    into.bias[:CHANNELS] = (into.bias[:CHANNELS] - mean) / std
    into.bias[CHANNELS:] -= 2 * std.log()  # of the log-variance
    model.latents.copy_(model.encode(pictures()))
    return model


@cache
def load_autoencoder() -> EmojiAutoencoder:
    """The shipped one."""
    model = load_weights(EmojiAutoencoder(), FOLDER / f"{NAME}.safetensors")
    assert isinstance(model, EmojiAutoencoder)
    return model.requires_grad_(False)
