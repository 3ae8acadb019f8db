"""Image denoisers that run text and image as one sequence, most with refiners before the main stack."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    BriaFibo2Transformer2DModel,
    ErnieImageTransformer2DModel,
    HiDreamImageTransformer2DModel,
    HunyuanImageTransformer2DModel,
    Ideogram4Transformer2DModel,
    Krea2Transformer2DModel,
    Lumina2Transformer2DModel,
    OmniGenTransformer2DModel,
    ZImageTransformer2DModel,
)

from .entry import Draw, Entry

_TEXT_MASK = torch.arange(6) < torch.tensor([[4], [6]])


def _grid(d: Draw) -> dict[str, Any]:
    """An 8 x 8 latent of 4 channels and 6 text tokens of 12."""
    return {
        "hidden_states": d(2, 4, 8, 8),
        "encoder_hidden_states": d(2, 6, 12),
        "timestep": d.times(unit=1000),
    }


def _positions(text: int, side: int) -> torch.Tensor:
    """Positions (text + side * side, 3) of text tokens, at the origin, and of a square of image tokens."""
    square = torch.cartesian_prod(torch.arange(1), torch.arange(side), torch.arange(side))
    return torch.cat([torch.zeros(text, 3), square])


UNIFIED = [
    Entry(
        "lumina2",
        partial(
            Lumina2Transformer2DModel,
            num_layers=4,
            num_refiner_layers=2,
            hidden_size=24,
            num_attention_heads=3,
            num_kv_heads=1,
            sample_size=8,
            in_channels=4,
            multiple_of=2,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(32, 32, 32),
            cap_feat_dim=12,
        ),
        lambda d: _grid(d) | {"timestep": d.times(), "encoder_attention_mask": _TEXT_MASK},
    ),
    Entry(
        "hidream",
        partial(
            HiDreamImageTransformer2DModel,
            num_layers=3,
            num_single_layers=3,
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            caption_channels=[12, 10],
            text_emb_dim=8,
            num_routed_experts=2,
            num_activated_experts=2,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(8, 8),
            llama_layers=tuple(range(6)),
        ),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "timesteps": d.times(unit=1000),
            "encoder_hidden_states_t5": d(2, 6, 12),
            "encoder_hidden_states_llama3": d(6, 2, 6, 10),
            "pooled_embeds": d(2, 8),
        },
    ),
    Entry(
        "hunyuan_image",
        partial(
            HunyuanImageTransformer2DModel,
            num_layers=3,
            num_single_layers=3,
            num_refiner_layers=2,
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_embed_dim=12,
            text_embed_2_dim=10,
            patch_size=(2, 2),
            rope_axes_dim=(8, 8),
        ),
        lambda d: (
            _grid(d)
            | {
                "encoder_attention_mask": _TEXT_MASK,
                "encoder_hidden_states_2": d(2, 5, 10),
                "encoder_attention_mask_2": torch.arange(5) < torch.tensor([[5], [3]]),
            }
        ),
    ),
    Entry(
        "omnigen",
        partial(
            OmniGenTransformer2DModel,
            num_layers=4,
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=32,
            in_channels=4,
            pad_token_id=0,
            vocab_size=20,
            time_step_dim=8,
            pos_embed_max_size=8,
            rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
        ),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "timestep": d.times(),
            "input_ids": d.ints(2, 24, high=20),
            "input_img_latents": [d(1, 4, 8, 8)],
            "input_image_sizes": {0: [[0, 16]]},
            "attention_mask": torch.ones(2, 41, 41),  # 24 of text and image, the time, 16 of the sample
            "position_ids": torch.arange(41).expand(2, -1),
        },
    ),
    Entry(
        "ernie_image",
        partial(
            ErnieImageTransformer2DModel,
            num_layers=4,
            hidden_size=16,
            num_attention_heads=1,
            ffn_hidden_size=32,
            in_channels=4,
            out_channels=4,
            text_in_dim=12,
            rope_axes_dim=(8, 4, 4),
        ),
        lambda d: {
            "hidden_states": d(2, 4, 4, 4),
            "timestep": d.times(unit=1000),
            "text_bth": d(2, 6, 12),
            "text_lens": torch.tensor([4, 6]),
        },
    ),
    Entry(
        "krea2",
        partial(
            Krea2Transformer2DModel,
            num_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_head_dim=8,
            in_channels=4,
            intermediate_size=32,
            timestep_embed_dim=8,
            text_hidden_dim=12,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
        ),
        lambda d: {
            "hidden_states": d(2, 16, 4),
            "encoder_hidden_states": d(2, 6, 3, 12),
            "timestep": d.times(),
            "position_ids": _positions(6, 4),
            "encoder_attention_mask": _TEXT_MASK,
        },
    ),
    Entry(
        "ideogram4",
        partial(
            Ideogram4Transformer2DModel,
            num_layers=4,
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=12,
            mrope_section=(2, 1, 1),
        ),
        lambda d: {
            "hidden_states": torch.nn.functional.pad(d(2, 16, 4), (0, 0, 6, 0)),  # image tokens after text
            "timestep": d.times(),
            "encoder_hidden_states": torch.nn.functional.pad(d(2, 6, 12), (0, 0, 0, 16)),
            "position_ids": _positions(6, 4).long().expand(2, -1, -1),
            "segment_ids": torch.ones(2, 22, dtype=torch.long),
            "indicator": torch.tensor([3] * 6 + [2] * 16).expand(2, -1),  # 3: text, 2: image
        },
    ),
    Entry(
        "z_image",
        partial(
            ZImageTransformer2DModel,
            n_layers=4,
            n_refiner_layers=2,
            dim=16,
            n_heads=1,
            n_kv_heads=1,
            in_channels=4,
            cap_feat_dim=12,
            axes_dims=[8, 4, 4],
            axes_lens=[96, 16, 16],
        ),
        lambda d: {
            "x": [d(4, 1, 8, 8), d(4, 1, 8, 8)],
            "t": d.times(),
            "cap_feats": [d(6, 12), d(6, 12)],
        },
    ),
    Entry(
        "bria_fibo2",
        partial(
            BriaFibo2Transformer2DModel,
            n_layers=4,
            n_refiner_layers=2,
            dim=24,
            n_heads=1,
            in_channels=4,
            cap_feat_dim=12,
            injection_layer_ids=(1, 3),
            perceiver_num_layers=2,
            min_num_gist_tokens=4,
            max_num_gist_tokens=8,
            gist_step=4,
            gist_min_text_len=4,
            gist_max_text_len=16,
            axes_dims=(8, 8, 8),
            axes_lens=(32, 16, 16),
        ),
        lambda d: {
            "hidden_states": d(2, 4, 8, 8),
            "timestep": d.times(),
            "encoder_hidden_states": d(2, 3, 6, 12),
        },
    ),
]
