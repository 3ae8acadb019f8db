"""What `skipcache engines` times: configurations of real size, and the reference denoisers.

`engines/presets.py` builds them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from skipcache.benchmarks.names.models import REFERENCES

XL: dict[str, Any] = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72}
REDUCED: dict[str, Any] = {"num_layers": 6, "num_attention_heads": 2, "attention_head_dim": 24}
IMAGE: dict[str, Any] = {"in_channels": 4, "out_channels": 8, "patch_size": 2, "activation_fn": "gelu-approximate"}
TEXT: dict[str, Any] = {"caption_channels": 4096, "cross_attention_dim": 1152, "norm_elementwise_affine": False}
REDUCED_TEXT: dict[str, Any] = {"caption_channels": 64, "cross_attention_dim": 48}


@dataclass(frozen=True)
class RealSize:
    """A class of diffusers and its configuration.

    `batch` is that of one call on a GPU, both halves of guidance included. `reduced` is what changes on the CPU.
    """

    cls: str
    config: dict[str, Any]
    batch: int
    reduced: dict[str, Any] = field(default_factory=dict)

    @property
    def reduction(self) -> dict[str, Any]:
        """All that changes on the CPU."""
        return {**REDUCED, "sample_size": self.config["sample_size"] // 4, **self.reduced}


def _dit(size: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, "sample_size": size, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000}
    return RealSize("DiTTransformer2DModel", {**config, "norm_elementwise_affine": False}, batch)


def _pixart(size: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, **TEXT, "sample_size": size, "norm_type": "ada_norm_single", "norm_eps": 1e-6}
    config["use_additional_conditions"] = size == 128
    return RealSize("PixArtTransformer2DModel", config, batch, REDUCED_TEXT)


def _latte(size: int, frames: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, **TEXT, "sample_size": size, "video_length": frames, "attention_bias": True}
    config["num_embeds_ada_norm"] = 1000
    return RealSize("LatteTransformer3DModel", config, batch, {**REDUCED_TEXT, "video_length": 4})


REAL_SIZES = {
    "dit-xl-256": _dit(32, 16),
    "dit-xl-512": _dit(64, 8),
    "pixart-xl-512": _pixart(64, 8),
    "pixart-xl-1024": _pixart(128, 2),
    "latte-xl-16x256": _latte(32, 16, 2),
}
PRESETS = (*REAL_SIZES, *REFERENCES)
