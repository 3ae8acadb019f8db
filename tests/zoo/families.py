"""The families with an adapter, and those whose streams, skips or frames make them hard."""

from functools import partial

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    CogVideoXTransformer3DModel,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    LatteTransformer3DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
)

from .entry import Entry

_PIXART = partial(
    PixArtTransformer2DModel,
    num_layers=4,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=8,
    cross_attention_dim=24,
    caption_channels=12,
    sample_size=8,
)
_SD3 = partial(
    SD3Transformer2DModel,
    num_layers=4,
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=4,
    joint_attention_dim=12,
    caption_projection_dim=16,
    pooled_projection_dim=10,
    sample_size=8,
    pos_embed_max_size=8,
)
_FLUX = partial(
    FluxTransformer2DModel,
    num_layers=3,
    num_single_layers=3,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    joint_attention_dim=12,
    pooled_projection_dim=10,
    axes_dims_rope=(4, 4, 8),
)
_COGVIDEOX = partial(
    CogVideoXTransformer3DModel,
    num_layers=4,
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=4,
    time_embed_dim=8,
    text_embed_dim=12,
    sample_width=8,
    sample_height=8,
    sample_frames=13,  # 4 latent frames
    max_text_seq_length=6,
)
_WAN = partial(
    WanTransformer3DModel,
    num_layers=4,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=12,
    freq_dim=16,
    ffn_dim=32,
    rope_max_seq_len=16,
)

FAMILIES = [
    Entry(
        "dit",
        partial(
            DiTTransformer2DModel,
            num_layers=4,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            sample_size=8,
            num_embeds_ada_norm=10,
        ),
        lambda d: {"hidden_states": d(2, 4, 8, 8), "timestep": d.steps(), "class_labels": d.ints(2, high=10)},
    ),
    Entry(
        "pixart_alpha",
        partial(_PIXART, use_additional_conditions=True),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.steps(),
            "added_cond_kwargs": {"resolution": 64 + d(2, 2), "aspect_ratio": 1 + d(2, 1)},
            "encoder_attention_mask": d.ints(2, 6, high=2).index_fill(1, d.ints(1, high=1), 1),
        },
    ),
    Entry(
        "pixart_sigma",
        partial(_PIXART, use_additional_conditions=False),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.steps(),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    Entry(
        "latte",
        partial(
            LatteTransformer3DModel,
            num_layers=4,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=12,
            sample_size=8,
            patch_size=2,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            video_length=5,
        ),
        lambda d: {
            "hidden_states": d(2, 4, 5, 8, 8),
            "timestep": d.steps(),
            "encoder_hidden_states": d(2, 6, 12),
        },
    ),
    Entry(
        "sd3",
        _SD3,
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "pooled_projections": d(2, 10),
            "timestep": d.times(unit=1000),
        },
    ),
    Entry(
        "sd3.5",  # the medium model: dual attention in the first blocks, normalised queries and keys
        partial(_SD3, dual_attention_layers=(0, 1), qk_norm="rms_norm"),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "pooled_projections": d(2, 10),
            "timestep": d.times(unit=1000),
        },
    ),
    Entry(
        "flux_dev",
        partial(_FLUX, guidance_embeds=True),
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "encoder_hidden_states": d(2, 6, 12),
            "pooled_projections": d(2, 10),
            "timestep": d.times(),
            "img_ids": d.ints(16, 3, high=4).float(),
            "txt_ids": d.ints(6, 3, high=1).float(),
            "guidance": 3.5 + d(2),
        },
    ),
    Entry(
        "flux_schnell",
        _FLUX,
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "encoder_hidden_states": d(2, 6, 12),
            "pooled_projections": d(2, 10),
            "timestep": d.times(),
            "img_ids": d.ints(16, 3, high=4).float(),
            "txt_ids": d.ints(6, 3, high=1).float(),
        },
    ),
    Entry(
        "cogvideox",
        _COGVIDEOX,
        lambda d: {
            "hidden_states": d(2, 4, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.steps(),
        },
    ),
    Entry(
        "cogvideox_1.5",  # frames in patches of two, rotary embeddings, the image-to-video variant's ofs
        partial(
            _COGVIDEOX,
            patch_size_t=2,
            patch_bias=False,
            use_rotary_positional_embeddings=True,
            ofs_embed_dim=8,
        ),
        lambda d: {
            "hidden_states": d(2, 4, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.steps(),
            "ofs": 2 + d(1),
            "image_rotary_emb": d.rotary(2 * 4 * 4, 8),
        },
    ),
    Entry(
        "wan",
        _WAN,
        lambda d: {
            "hidden_states": d(2, 4, 5, 8, 8),
            "timestep": d.steps(),
            "encoder_hidden_states": d(2, 6, 12),
        },
    ),
    Entry(
        "wan_i2v",
        partial(_WAN, image_dim=10, added_kv_proj_dim=24),
        lambda d: {
            "hidden_states": d(2, 4, 5, 8, 8),
            "timestep": d.steps(),
            "encoder_hidden_states": d(2, 6, 12),
            "encoder_hidden_states_image": d(2, 257, 10),
        },
    ),
    Entry(
        "wan_ti2v",  # one time per token; the first frame is the clean image
        _WAN,
        lambda d: {
            "hidden_states": d(2, 4, 5, 8, 8),
            "timestep": d.steps(2, 5 * 4 * 4).index_fill(1, torch.arange(4 * 4), 0),
            "encoder_hidden_states": d(2, 6, 12),
        },
    ),
    Entry(
        "auraflow",
        partial(
            AuraFlowTransformer2DModel,
            num_mmdit_layers=3,
            num_single_dit_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            joint_attention_dim=12,
            caption_projection_dim=16,
            sample_size=8,
            pos_embed_max_size=16,
        ),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.times(),
        },
    ),
    Entry(
        "hunyuan_dit",
        partial(
            HunyuanDiT2DModel,
            num_layers=6,  # blocks 5 and 4 take the outputs of blocks 0 and 1; two in the middle take none
            num_attention_heads=2,
            attention_head_dim=8,
            hidden_size=16,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            cross_attention_dim=12,
            cross_attention_dim_t5=16,
            pooled_projection_dim=8,
            text_len=6,
            text_len_t5=6,
        ),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "timestep": d.times(unit=1000),
            "encoder_hidden_states": d(2, 6, 12),
            "text_embedding_mask": d.ints(2, 6, high=2),
            "encoder_hidden_states_t5": d(2, 6, 16),
            "text_embedding_mask_t5": d.ints(2, 6, high=2),
            "image_meta_size": 64 + d(2, 6),
            "style": d.ints(2, high=1),
            "image_rotary_emb": d.rotary(16, 8),
        },
    ),
]
