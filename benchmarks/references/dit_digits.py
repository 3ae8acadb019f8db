"""`dit-digits`: diffusers' DiT, 12 blocks, 2M parameters, a class-conditional noise predictor."""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from skipcache.benchmarks.references.data.dataset import Data
from skipcache.benchmarks.references.data.digits import CLASSES, digits
from skipcache.benchmarks.references.judges.digits import load_judge
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.task import Recipe


def reference() -> Reference:
    return Reference(
        name="dit-digits",
        build=build,
        data=data,
        judge=load_judge,
        recipe=Recipe(steps=4000, batch=64, lr=1e-3, warmup=300),
    )


def build() -> nn.Module:
    """Width 88 for 2M parameters: the timestep and class embedder of every block takes a quarter of them."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=22,
        in_channels=1,
        out_channels=1,
        num_layers=12,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
        attention_bias=True,
        norm_num_groups=1,
    )
    _start_as_identity(model)
    # In training mode every block would drop classes on its own; the loss drops them for all blocks alike.
    return model.eval()


@torch.no_grad()
def _start_as_identity(model: DiTTransformer2DModel) -> None:
    """adaLN-Zero as in the DiT paper (arXiv 2212.09748); diffusers leaves the gates at random values."""
    gates = [block.norm1.linear for block in model.transformer_blocks]
    for linear in [*gates, model.proj_out_1, model.proj_out_2]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def data() -> Data:
    images, labels = digits()
    return Data(images, labels, {"class_labels": torch.arange(CLASSES + 1)}, tuple(map(str, range(CLASSES))))
