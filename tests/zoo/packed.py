"""Image denoisers of the Flux kind: the sample is a sequence of tokens, with their positions beside it."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    BriaFiboTransformer2DModel,
    BriaTransformer2DModel,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    Flux3Transformer2DModel,
    LongCatImageTransformer2DModel,
    NucleusMoEImageTransformer2DModel,
    OvisImageTransformer2DModel,
    QwenImage21Transformer2DModel,
    QwenImageTransformer2DModel,
)

from .entry import Draw, Entry

_WIDTH = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4}
_TWO_LISTS = {"num_layers": 3, "num_single_layers": 3, "joint_attention_dim": 12, **_WIDTH}


def _packed(d: Draw, axes: int = 3) -> dict[str, Any]:
    """16 image tokens of 4 channels and 6 text tokens of 12, with positions on `axes` axes."""
    return {
        "hidden_states": d(2, 16, 4),
        "encoder_hidden_states": d(2, 6, 12),
        "timestep": d.times(),
        "img_ids": d.ints(16, axes, high=4).float(),
        "txt_ids": d.ints(6, axes, high=4).float(),
    }


PACKED = [
    Entry(
        "bria",
        partial(BriaTransformer2DModel, **_TWO_LISTS, axes_dims_rope=(4, 4, 8)),
        lambda d: _packed(d) | {"timestep": d.times(unit=1000)},
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "bria_fibo",
        partial(BriaFiboTransformer2DModel, **_TWO_LISTS, axes_dims_rope=(4, 4, 8), text_encoder_dim=10),
        lambda d: (
            _packed(d)
            | {"timestep": d.times(unit=1000), "text_encoder_layers": [d(2, 6, 10) for _ in range(6)]}
        ),
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "chroma",
        partial(
            ChromaTransformer2DModel,
            **_TWO_LISTS,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=2,
        ),
        lambda d: _packed(d) | {"attention_mask": d.ints(2, 22, high=8) > 0},
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "flux2",
        partial(
            Flux2Transformer2DModel, **_TWO_LISTS, axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=16
        ),
        lambda d: _packed(d, axes=4) | {"guidance": 3.5 + d(2)},
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "flux3",
        partial(
            Flux3Transformer2DModel,
            **_TWO_LISTS,
            cond_in_channels=4,
            axes_dims_rope=(4, 4, 4, 4),
            timestep_channels=16,
        ),
        lambda d: (
            _packed(d, axes=4)
            | {"image_cond_hidden_states": d(2, 8, 4), "image_cond_ids": d.ints(8, 4, high=4).float()}
        ),
        lists=("single_transformer_blocks",),
    ),
    Entry(
        "longcat_image",
        partial(
            LongCatImageTransformer2DModel, **_TWO_LISTS, pooled_projection_dim=12, axes_dims_rope=(4, 4, 8)
        ),
        _packed,
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "nucleus_moe",
        partial(
            NucleusMoEImageTransformer2DModel,
            **_WIDTH,
            num_layers=4,
            num_key_value_heads=1,
            patch_size=1,
            out_channels=4,
            joint_attention_dim=12,
            axes_dims_rope=(4, 6, 6),
            mlp_ratio=6.0,  # the dense block rounds its width down to a multiple of 128
            dense_moe_strategy="leave_first_block_dense",
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=[2.0] * 4,
        ),
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "img_shapes": [(1, 4, 4)] * 2,
            "encoder_hidden_states": d(2, 6, 12),
            "encoder_hidden_states_mask": d.ints(2, 6, high=4) > 0,
            "timestep": d.times(),
        },
    ),
    Entry(
        "ovis_image",
        partial(OvisImageTransformer2DModel, **_TWO_LISTS, out_channels=4, axes_dims_rope=(4, 4, 8)),
        _packed,
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    Entry(
        "qwen_image",
        partial(
            QwenImageTransformer2DModel,
            **_WIDTH,
            num_layers=4,
            out_channels=1,
            joint_attention_dim=12,
            axes_dims_rope=(4, 6, 6),
        ),
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "encoder_hidden_states": d(2, 6, 12),
            "encoder_hidden_states_mask": d.ints(2, 6, high=4) > 0,
            "timestep": d.times(),
            "img_shapes": [[(1, 4, 4)]] * 2,
        },
    ),
    Entry(
        "qwen_image_2.1",
        partial(
            QwenImage21Transformer2DModel,
            **_WIDTH,
            num_layers=4,
            out_channels=4,
            context_in_dim=12,
            axes_dims_rope=(4, 6, 6),
        ),
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.times(),
            "img_shapes": [[(1, 4, 4)]] * 2,
            "img_mask": torch.arange(6 + 4).expand(2, -1) >= 6,  # a slot stands for 2 x 2 image tokens
        },
    ),
]
