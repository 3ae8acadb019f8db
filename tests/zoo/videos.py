"""Video denoisers of one stream, and of two in joint blocks only: 4 or 5 frames of latents."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    AllegroTransformer3DModel,
    ConsisIDTransformer3DModel,
    Cosmos3OmniTransformer,
    CosmosTransformer3DModel,
    EasyAnimateTransformer3DModel,
    Kandinsky5Transformer3DModel,
    Kandinsky6SRTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    SanaVideoTransformer3DModel,
    SanaWMTransformer3DModel,
)

from .entry import Draw, Entry

_WIDTH = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4}
_TEXT_MASK = torch.arange(6) < torch.tensor([[4], [6]])


def _video(d: Draw) -> dict[str, Any]:
    """5 frames of 8 x 8 latents of 4 channels and 6 text tokens of 12."""
    return {
        "hidden_states": d(2, 4, 5, 8, 8),
        "encoder_hidden_states": d(2, 6, 12),
        "timestep": d.times(unit=1000),
    }


def _cameras(d: Draw, frames: int) -> torch.Tensor:
    """Poses (4 x 4, shifted from the origin) and intrinsics (4) of the frames' cameras: (2, frames, 20)."""
    poses = torch.eye(4).repeat(2, frames, 1, 1)
    poses[..., :3, 3] = 0.3 * d(2, frames, 3)
    return torch.cat([poses.flatten(2), torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(2, frames, 4)], dim=-1)


VIDEOS = [
    Entry(
        "allegro",
        partial(
            AllegroTransformer3DModel,
            **_WIDTH,
            out_channels=4,
            cross_attention_dim=16,
            caption_channels=12,
            sample_height=8,
            sample_width=8,
            sample_frames=5,
        ),
        lambda d: _video(d) | {"encoder_attention_mask": _TEXT_MASK.float()},
    ),
    Entry(
        "consisid",
        partial(
            ConsisIDTransformer3DModel,
            **_WIDTH,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=12,
            sample_width=8,
            sample_height=8,
            sample_frames=13,
            max_text_seq_length=6,
            is_train_face=True,
            cross_attn_interval=2,
            cross_attn_dim_head=8,
            cross_attn_num_heads=1,
            LFE_id_dim=8,
            LFE_vit_dim=10,
            LFE_depth=4,
            LFE_dim_head=8,
            LFE_num_heads=2,
            LFE_num_id_token=2,
            LFE_num_querie=3,
            LFE_output_dim=10,  # two thirds of the width
            LFE_ff_mult=1,
            LFE_num_scale=2,
        ),
        lambda d: (
            _video(d)
            | {
                "hidden_states": d(2, 4, 4, 8, 8),
                "timestep": d.steps(),
                "id_cond": d(2, 8),
                "id_vit_hidden": [d(2, 3, 10), d(2, 3, 10)],
            }
        ),
    ),
    Entry(
        "cosmos",
        partial(
            CosmosTransformer3DModel,
            **_WIDTH | {"attention_head_dim": 12, "in_channels": 5},
            out_channels=4,
            mlp_ratio=2,
            text_embed_dim=12,
            adaln_lora_dim=4,
            max_size=(6, 8, 8),
            concat_padding_mask=False,  # a padding mask is resized with torchvision
        ),
        lambda d: (
            _video(d)
            | {
                "timestep": d.times(),
                "fps": 30,
                "condition_mask": torch.zeros(2, 1, 5, 8, 8).index_fill(2, torch.tensor([0]), 1),
            }
        ),
    ),
    Entry(
        "cosmos3",  # one sample, packed with its text into one sequence
        partial(
            Cosmos3OmniTransformer,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            hidden_size=16,
            intermediate_size=32,
            latent_channel=4,
            latent_patch_size=1,
            patch_latent_dim=4,
            rope_axes_dim=[2, 1, 1],
            vocab_size=20,
        ),
        lambda d: {
            "input_ids": d.ints(6, high=20),
            "text_indexes": torch.arange(6),
            "position_ids": torch.arange(26).expand(3, -1),
            "und_len": 6,
            "sequence_length": 26,
            "vision_tokens": [d(1, 4, 5, 2, 2)],
            "vision_token_shapes": [(5, 2, 2)],
            "vision_sequence_indexes": torch.arange(6, 26),
            "vision_mse_loss_indexes": torch.arange(6, 26),
            "vision_timesteps": d.times(20, unit=1000),
            "vision_noisy_frame_indexes": [torch.arange(5)],
        },
        lists=("layers",),
        sample="vision_tokens",
        timestep="vision_timesteps",
    ),
    Entry(
        "easyanimate",
        partial(
            EasyAnimateTransformer3DModel,
            **_WIDTH | {"attention_head_dim": 16},
            mmdit_layers=2,
            out_channels=4,
            patch_size=2,
            time_embed_dim=8,
            text_embed_dim=12,
        ),
        _video,
    ),
    Entry(
        "kandinsky5",
        partial(
            Kandinsky5Transformer3DModel,
            num_text_blocks=2,
            num_visual_blocks=4,
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=12,
            in_text_dim2=10,
            time_dim=8,
            model_dim=32,
            ff_dim=32,
            axes_dims=(4, 6, 6),
        ),
        lambda d: {
            "hidden_states": d(2, 5, 8, 8, 4),
            "encoder_hidden_states": d(2, 6, 12),
            "timestep": d.times(unit=1000),
            "pooled_projections": d(2, 10),
            "visual_rope_pos": (torch.arange(5), torch.arange(4), torch.arange(4)),
            "text_rope_pos": torch.arange(6),
        },
        lists=("visual_transformer_blocks",),
    ),
    Entry(
        "kandinsky6_sr",
        partial(
            Kandinsky6SRTransformer3DModel,
            num_visual_blocks=4,
            in_visual_dim=2,
            out_visual_dim=4,
            time_dim=8,
            model_dim=32,
            ff_dim=32,
            axes_dims=(4, 6, 6),
        ),
        lambda d: {"hidden_states": d(2, 4, 8, 8, 5), "timestep": d.times(unit=1000)},
        lists=("visual_transformer_blocks",),
    ),
    Entry(
        "ltx",
        partial(
            LTXVideoTransformer3DModel, **_WIDTH, out_channels=4, cross_attention_dim=16, caption_channels=12
        ),
        lambda d: (
            _video(d)
            | {
                "hidden_states": d(2, 5 * 4 * 4, 4),
                "encoder_attention_mask": _TEXT_MASK,
                "num_frames": 5,
                "height": 4,
                "width": 4,
            }
        ),
    ),
    Entry(
        "mochi",
        partial(
            MochiTransformer3DModel,
            **_WIDTH,
            pooled_projection_dim=16,
            text_embed_dim=16,
            time_embed_dim=8,
            max_sequence_length=6,
        ),
        lambda d: _video(d) | {"encoder_hidden_states": d(2, 6, 16), "encoder_attention_mask": _TEXT_MASK},
    ),
    Entry(
        "sana_video",
        partial(
            SanaVideoTransformer3DModel,
            **_WIDTH | {"attention_head_dim": 12},
            out_channels=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=12,
            sample_size=8,
            rope_max_seq_len=16,
        ),
        _video,
    ),
    Entry(
        "sana_wm",
        partial(
            SanaWMTransformer3DModel,
            num_layers=4,
            hidden_size=32,
            num_attention_heads=2,
            linear_head_dim=16,
            softmax_every_n=2,
            in_channels=4,
            chunk_plucker_channels=6,
            caption_channels=12,
        ),
        lambda d: {
            "hidden_states": d(2, 4, 5, 4, 4),
            "timestep": d.times(2, 1, 5, unit=1000),
            "encoder_hidden_states": d(2, 1, 6, 12),
            "encoder_attention_mask": torch.ones(2, 6),
            "camera_conditions": _cameras(d, 5),
            "chunk_plucker": d(2, 6, 5, 4, 4),
        },
        lists=("blocks",),
    ),
]
