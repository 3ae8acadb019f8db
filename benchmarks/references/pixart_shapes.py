"""`pixart-shapes`: diffusers' PixArt, 24 blocks, 2M parameters, draws scenes of two shapes from captions."""

from __future__ import annotations

import torch
from diffusers import LatteTransformer3DModel, PixArtTransformer2DModel
from torch import nn

from skipcache.benchmarks.names.schedulers import TRAIN_STEPS
from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.dataset import Data
from skipcache.benchmarks.references.data.shapes import SIZE, scenes
from skipcache.benchmarks.references.judges.captions import captioned
from skipcache.benchmarks.references.judges.shapes import load_judge
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.task import Recipe


def reference() -> Reference:
    return Reference(
        name="pixart-shapes",
        build=build,
        data=data,
        judge=load_judge,
        recipe=Recipe(steps=6000, batch=32, lr=1.5e-3, warmup=300),
        prediction="v_prediction",
    )


def build() -> nn.Module:
    """As deep as a real one, but narrow: that is enough for 16 tokens of 4x4 pixels."""
    model = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=18,
        in_channels=3,
        out_channels=3,
        num_layers=24,
        sample_size=SIZE,
        patch_size=4,
        cross_attention_dim=72,
        caption_channels=WIDTH,
        num_embeds_ada_norm=TRAIN_STEPS,
    )
    start_as_identity(model)
    return model.eval()


@torch.no_grad()
def start_as_identity(model: PixArtTransformer2DModel | LatteTransformer3DModel) -> None:
    """adaLN-Zero (arXiv 2212.09748) in the form of adaLN-single. Cross attention starts at zero, as in PixArt."""
    linears = [model.adaln_single.linear, model.proj_out]
    for block in model.transformer_blocks:
        block.scale_shift_table.zero_()
        linears.append(block.attn2.to_out[0])
    for block in getattr(model, "temporal_transformer_blocks", ()):
        block.scale_shift_table.zero_()
    for linear in linears:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def data() -> Data:
    return captioned(*scenes(), load_judge())
