"""Video denoisers of the HunyuanVideo kind: blocks of two streams, often followed by blocks of one."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    MotifVideoTransformer3DModel,
)

from .entry import Draw, Entry

_WIDTH = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4}
_HUNYUAN = {
    "num_layers": 3,
    "num_single_layers": 3,
    "num_refiner_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "rope_axes_dim": (2, 2, 4),
    "text_embed_dim": 12,
    "pooled_projection_dim": 10,
}
_TEXT_MASK = torch.arange(6) < torch.tensor([[4], [6]])


def _video(d: Draw) -> dict[str, Any]:
    """5 frames of 8 x 8 latents of 4 channels and 6 text tokens of 12."""
    return {
        "hidden_states": d(2, 4, 5, 8, 8),
        "encoder_hidden_states": d(2, 6, 12),
        "timestep": d.times(unit=1000),
    }


STREAMS = [
    Entry(
        "hunyuan_video",
        partial(HunyuanVideoTransformer3DModel, **_HUNYUAN),
        lambda d: (
            _video(d)
            | {
                "encoder_attention_mask": _TEXT_MASK.float(),
                "pooled_projections": d(2, 10),
                "guidance": 6000 + d(2),
            }
        ),
    ),
    Entry(
        "hunyuan_video_i2v",
        partial(
            HunyuanVideoTransformer3DModel,
            **_HUNYUAN | {"in_channels": 9},
            guidance_embeds=False,
            image_condition_type="token_replace",
        ),
        lambda d: (
            _video(d)
            | {
                "hidden_states": d(2, 9, 5, 8, 8),
                "encoder_attention_mask": _TEXT_MASK.float(),
                "pooled_projections": d(2, 10),
            }
        ),
    ),
    Entry(
        "hunyuan_video_1.5",
        partial(
            HunyuanVideo15Transformer3DModel,
            **_WIDTH,
            out_channels=4,
            num_refiner_layers=2,
            mlp_ratio=2.0,
            patch_size=2,
            text_embed_dim=12,
            text_embed_2_dim=10,
            image_embed_dim=8,
            rope_axes_dim=(2, 2, 4),
            target_size=16,
        ),
        lambda d: (
            _video(d)
            | {
                "encoder_attention_mask": _TEXT_MASK.float(),
                "encoder_hidden_states_2": d(2, 5, 10),
                "encoder_attention_mask_2": torch.ones(2, 5),
                "image_embeds": d(2, 3, 8),
            }
        ),
    ),
    Entry(
        "framepack",
        partial(
            HunyuanVideoFramepackTransformer3DModel,
            **_HUNYUAN,
            has_image_proj=True,
            image_proj_dim=8,
            has_clean_x_embedder=True,
        ),
        lambda d: (
            _video(d)
            | {
                "encoder_attention_mask": _TEXT_MASK.float(),
                "pooled_projections": d(2, 10),
                "guidance": 6000 + d(2),
                "image_embeds": d(2, 3, 8),
                "indices_latents": torch.arange(11, 16),
                "latents_clean": d(2, 4, 2, 8, 8),
                "indices_latents_clean": torch.tensor([0, 10]),
                "latents_history_2x": d(2, 4, 2, 8, 8),
                "indices_latents_history_2x": torch.arange(8, 10),
                "latents_history_4x": d(2, 4, 4, 8, 8),
                "indices_latents_history_4x": torch.arange(4, 8),
            }
        ),
    ),
    Entry(
        "joyimage",
        partial(
            JoyImageEditTransformer3DModel,
            num_layers=4,
            hidden_size=16,
            num_attention_heads=2,
            in_channels=4,
            text_dim=12,
            rope_dim_list=[2, 2, 4],
        ),
        _video,
    ),
    Entry(
        "joyimage_plus",
        partial(
            JoyImageEditPlusTransformer3DModel,
            num_layers=4,
            hidden_size=16,
            num_attention_heads=2,
            in_channels=4,
            text_dim=12,
            rope_dim_list=[2, 2, 4],
        ),
        lambda d: (
            _video(d)
            | {
                "hidden_states": d(2, 20, 4, 1, 2, 2),  # 20 patches: an image of 4 x 4 and one of 2 x 2
                "encoder_hidden_states_mask": _TEXT_MASK,
                "shape_list": [[(1, 4, 4), (1, 2, 2)]] * 2,
            }
        ),
    ),
    Entry(
        "motif_video",
        partial(
            MotifVideoTransformer3DModel,
            num_layers=3,
            num_single_layers=4,
            num_decoder_layers=2,  # the last two of the single ones
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=9,
            out_channels=4,
            patch_size=2,
            text_embed_dim=12,
            image_embed_dim=8,
            rope_axes_dim=(4, 4, 4),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
        ),
        lambda d: (
            _video(d)
            | {
                "hidden_states": d(2, 9, 5, 8, 8),
                "encoder_attention_mask": _TEXT_MASK,
                "image_embeds": d(2, 3, 8),
            }
        ),
    ),
]
