"""`latte-digits`: diffusers' Latte, 6 pairs of a spatial and a temporal block, draws moving digits from captions."""

from __future__ import annotations

from diffusers import LatteTransformer3DModel
from torch import nn

from skipcache.benchmarks.names.schedulers import TRAIN_STEPS
from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.dataset import Data
from skipcache.benchmarks.references.data.moving_digits import FRAMES, SIZE, videos
from skipcache.benchmarks.references.judges.captions import captioned
from skipcache.benchmarks.references.judges.moving_digits import load_judge
from skipcache.benchmarks.references.pixart_shapes import start_as_identity
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.task import Recipe


def reference() -> Reference:
    return Reference(
        name="latte-digits",
        build=build,
        data=data,
        judge=load_judge,
        recipe=Recipe(steps=9000, batch=16, lr=1.5e-3, warmup=300),
        prediction="v_prediction",
    )


def build() -> nn.Module:
    """The settings of Latte-1, except for the sizes: 8 frames of 16 tokens of 4x4 pixels."""
    model = LatteTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        cross_attention_dim=96,
        attention_bias=True,
        sample_size=SIZE,
        patch_size=4,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=TRAIN_STEPS,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=WIDTH,
        video_length=FRAMES,
    )
    start_as_identity(model)
    return model.eval()


def data() -> Data:
    return captioned(*videos(), load_judge())
