"""`mmdit-emoji`: diffusers' MMDiT of Stable Diffusion 3, 12 blocks, 2M parameters, draws emoji from captions.

A rectified flow in the latents of `emoji-autoencoder`, sampled by Stable Diffusion 3's own pipeline.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from skipcache.benchmarks.names.schedulers import FLOW
from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.dataset import Data
from skipcache.benchmarks.references.data.emoji import labels
from skipcache.benchmarks.references.emoji_autoencoder import CHANNELS, SIDE, load_autoencoder
from skipcache.benchmarks.references.judges.emoji import load_judge
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.sampling.text_to_image import TextToImagePipeline
from skipcache.benchmarks.training.losses import flow_loss
from skipcache.benchmarks.training.task import Recipe, Task

REAL = 1000  # of the pictures, to compare sets of samples with; to decode all takes long


def reference() -> Reference:
    return Reference(
        name="mmdit-emoji",
        build=build,
        data=data,
        judge=load_judge,
        recipe=Recipe(steps=3500, batch=64, lr=1.5e-3, warmup=300, ema=0.998),
        stages=stages,
        prediction=FLOW,
        pipe=pipe,
        latent_shape=(CHANNELS, SIDE, SIDE),
    )


def build() -> nn.Module:
    """The settings of Stable Diffusion 3.5, except for the sizes: 16 tokens of 2x2 latents, and 4 of text."""
    model = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=12,
        num_attention_heads=3,
        attention_head_dim=24,
        joint_attention_dim=WIDTH,
        caption_projection_dim=72,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=SIDE // 2,
        qk_norm="rms_norm",
    )
    _start_as_identity(model)
    return model.eval()


@torch.no_grad()
def _start_as_identity(model: SD3Transformer2DModel) -> None:
    """adaLN-Zero (arXiv 2212.09748), for both streams."""
    linears = [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        linears += [block.norm1.linear, block.norm1_context.linear]
    for linear in linears:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


@cache
def data() -> Data:
    """Of the pictures a fair part, as the autoencoder gives them back: so nothing is fetched."""
    part = torch.randperm(len(labels()), generator=torch.Generator().manual_seed(0))[:REAL]
    autoencoder, judge = load_autoencoder(), load_judge()
    samples = autoencoder.decode(autoencoder.latents[part]).clamp(-1, 1)
    return Data(samples, labels()[part], table(judge.states()), judge.captions.texts)


def table(states: Tensor) -> dict[str, Tensor]:
    """The prompt, a state for each word, and the pooled prompt, their mean."""
    return {"encoder_hidden_states": states, "pooled_projections": states.mean(1)}


def pipe(model: nn.Module, scheduler: Any) -> TextToImagePipeline:
    parameter = next(model.parameters())
    autoencoder = copy.deepcopy(load_autoencoder().kl)
    # nn.Module's `to`: that of diffusers warns of modules kept in float32 even where there are none.
    nn.Module.to(autoencoder, parameter.device, parameter.dtype)
    return TextToImagePipeline.around(model, scheduler, autoencoder)


def stages(reference: Reference) -> Task:
    loss = flow_loss(load_autoencoder().latents, labels(), data())
    return Task(reference.name, build, loss, reference.score, reference.recipe, show=reference.show)
