"""Image denoisers whose sample is a grid of latents, and the prior, whose sample is one vector."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    CogView3PlusTransformer2DModel,
    CogView4Transformer2DModel,
    GlmImageTransformer2DModel,
    LuminaNextDiT2DModel,
    PriorTransformer,
    PRXTransformer2DModel,
    SanaTransformer2DModel,
    Transformer2DModel,
)

from .entry import Draw, Entry

_WIDTH = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4}


def _grid(d: Draw) -> dict[str, Any]:
    """An 8 x 8 latent of 4 channels and 6 text tokens of 12."""
    return {
        "hidden_states": d(2, 4, 8, 8),
        "encoder_hidden_states": d(2, 6, 12),
        "timestep": d.times(unit=1000),
    }


def _sizes(*names: str) -> dict[str, Any]:
    """The micro-conditioning of CogView and its like: sizes and crops of 64 pixels."""
    return {name: torch.full((2, 2), 0.0 if "crop" in name else 64.0) for name in names}


IMAGES = [
    Entry(
        "transformer_2d",  # as the first DiT checkpoints were configured
        partial(
            Transformer2DModel,
            **_WIDTH,
            out_channels=8,
            sample_size=8,
            patch_size=2,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=10,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        ),
        lambda d: {"hidden_states": d(2, 4, 8, 8), "timestep": d.steps(), "class_labels": d.ints(2, high=10)},
    ),
    Entry(
        "sana",
        partial(
            SanaTransformer2DModel,
            **_WIDTH,
            out_channels=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=12,
            sample_size=8,
        ),
        _grid,
    ),
    Entry(
        "sana_sprint",
        partial(
            SanaTransformer2DModel,
            **_WIDTH,
            out_channels=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=12,
            sample_size=8,
            guidance_embeds=True,
            qk_norm="rms_norm_across_heads",
        ),
        lambda d: _grid(d) | {"timestep": d.times(), "guidance": 4.5 + d(2)},
    ),
    Entry(
        "lumina_next",
        partial(
            LuminaNextDiT2DModel,
            num_layers=4,
            hidden_size=24,
            num_attention_heads=3,
            num_kv_heads=1,
            sample_size=8,
            in_channels=4,
            multiple_of=16,
            cross_attention_dim=12,
        ),
        lambda d: (
            _grid(d)
            | {
                "timestep": d.times(),
                "encoder_mask": d.ints(2, 6, high=4) > 0,
                "image_rotary_emb": torch.polar(torch.ones(384, 384, 4), d(384, 384, 4)),
                "cross_attention_kwargs": {},
            }
        ),
    ),
    Entry(
        "cogview3_plus",
        partial(
            CogView3PlusTransformer2DModel,
            **_WIDTH,
            out_channels=4,
            text_embed_dim=12,
            time_embed_dim=8,
            condition_dim=4,
            pos_embed_max_size=8,
            sample_size=8,
        ),
        lambda d: _grid(d) | _sizes("original_size", "target_size", "crop_coords"),
    ),
    Entry(
        "cogview4",
        partial(
            CogView4Transformer2DModel,
            **_WIDTH,
            out_channels=4,
            text_embed_dim=12,
            time_embed_dim=8,
            condition_dim=4,
            rope_axes_dim=(8, 8),
        ),
        lambda d: _grid(d) | _sizes("original_size", "target_size", "crop_coords"),
    ),
    Entry(
        "glm_image",
        partial(
            GlmImageTransformer2DModel,
            **_WIDTH,
            out_channels=4,
            text_embed_dim=12,
            time_embed_dim=8,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=10,
        ),
        lambda d: (
            _grid(d)
            | _sizes("target_size", "crop_coords")
            | {
                "prior_token_id": d.ints(2, 16, high=10),
                "prior_token_drop": torch.zeros(2, 16, dtype=torch.bool),
            }
        ),
    ),
    Entry(
        "prx",
        partial(
            PRXTransformer2DModel,
            depth=4,
            hidden_size=16,
            num_heads=2,
            in_channels=4,
            context_in_dim=12,
            axes_dim=[4, 4],
        ),
        lambda d: _grid(d) | {"timestep": d.times(), "attention_mask": d.ints(2, 6, high=4) > 0},
    ),
    Entry(
        "prior",
        partial(
            PriorTransformer,
            num_layers=4,
            num_attention_heads=2,
            attention_head_dim=8,
            embedding_dim=12,
            num_embeddings=6,
        ),
        lambda d: {
            "hidden_states": d(2, 12),
            "timestep": d.steps(),
            "proj_embedding": d(2, 12),
            "encoder_hidden_states": d(2, 6, 12),
            "attention_mask": d.ints(2, 6, high=4) > 0,
        },
    ),
]
