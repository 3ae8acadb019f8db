"""Video denoisers of the Wan kind."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    AnyFlowFARTransformer3DModel,
    AnyFlowTransformer3DModel,
    ChronoEditTransformer3DModel,
    HeliosTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanAnimateTransformer3DModel,
    WanVACETransformer3DModel,
)

from .entry import Draw, Entry

_WAN = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 32,
}


def _video(d: Draw) -> dict[str, Any]:
    """5 frames of 8 x 8 latents of 4 channels and 6 text tokens of 12."""
    return {"hidden_states": d(2, 4, 5, 8, 8), "timestep": d.steps(), "encoder_hidden_states": d(2, 6, 12)}


def _any_flow(d: Draw) -> dict[str, Any]:
    """Frames first, a time for each frame, and the time to go to."""
    return {
        "hidden_states": d(2, 5, 4, 8, 8),
        "timestep": d.times(2, 5, unit=1000),
        "r_timestep": d.times(2, 5, unit=900),
        "encoder_hidden_states": d(2, 6, 12),
    }


WANS = [
    Entry("anyflow", partial(AnyFlowTransformer3DModel, **_WAN, rope_max_seq_len=16), _any_flow),
    Entry(
        "anyflow_far",
        partial(AnyFlowFARTransformer3DModel, **_WAN, rope_max_seq_len=16, full_chunk_limit=2),
        lambda d: _any_flow(d) | {"chunk_partition": [1, 2, 2]},
    ),
    Entry("chronoedit", partial(ChronoEditTransformer3DModel, **_WAN, rope_max_seq_len=16), _video),
    Entry(
        "helios",
        partial(HeliosTransformer3DModel, **_WAN, rope_dim=(4, 4, 4)),
        lambda d: (
            _video(d)
            | {
                "indices_hidden_states": torch.arange(9, 14).expand(2, -1),
                "indices_latents_history_short": torch.arange(8, 9).expand(2, -1),
                "indices_latents_history_mid": torch.arange(6, 8).expand(2, -1),
                "indices_latents_history_long": torch.arange(2, 6).expand(2, -1),
                "latents_history_short": d(2, 4, 1, 8, 8),
                "latents_history_mid": d(2, 4, 2, 8, 8),
                "latents_history_long": d(2, 4, 4, 8, 8),
            }
        ),
    ),
    Entry("skyreels_v2", partial(SkyReelsV2Transformer3DModel, **_WAN, rope_max_seq_len=16), _video),
    Entry(
        "skyreels_v2_forcing",  # a time for each frame
        partial(
            SkyReelsV2Transformer3DModel,
            **_WAN,
            rope_max_seq_len=16,
            num_frame_per_block=1,
        ),
        lambda d: (
            _video(d)
            | {
                "timestep": d.steps(2, 5).index_fill(1, torch.tensor([0]), 0),
                "enable_diffusion_forcing": True,
            }
        ),
    ),
    Entry(
        "wan_animate",
        partial(
            WanAnimateTransformer3DModel,
            **_WAN | {"in_channels": 12},
            latent_channels=4,
            image_dim=10,
            rope_max_seq_len=16,
            motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
            motion_encoder_size=16,
            motion_style_dim=8,
            motion_dim=4,
            motion_encoder_dim=8,
            face_encoder_hidden_dim=8,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=2,
        ),
        lambda d: {
            "hidden_states": d(2, 12, 5, 8, 8),
            "timestep": d.steps(),
            "encoder_hidden_states": d(2, 6, 12),
            "encoder_hidden_states_image": d(2, 7, 10),
            "pose_hidden_states": d(2, 4, 4, 8, 8),
            "face_pixel_values": d(2, 3, 13, 16, 16),  # 4 latent frames
        },
    ),
    Entry(
        "wan_vace",
        partial(
            WanVACETransformer3DModel,
            **_WAN,
            rope_max_seq_len=16,
            vace_layers=[0, 2],
            vace_in_channels=12,
        ),
        lambda d: _video(d) | {"control_hidden_states": d(2, 12, 5, 8, 8)},
    ),
]
