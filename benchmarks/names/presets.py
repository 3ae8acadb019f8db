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

    Attributes:
        batch: of one call on a GPU, both halves of guidance included.
        grid: of the latents, frames first where there are some.
        reduced, reduced_grid: what changes where the size is reduced.
        tokens: of a prompt.
        flow: it is sampled as a rectified flow.
    """

    cls: str
    config: dict[str, Any]
    batch: int
    grid: tuple[int, ...]
    reduced_grid: tuple[int, ...]
    reduced: dict[str, Any] = field(default_factory=dict)
    tokens: int = 120
    flow: bool = False

    def changes(self, reduced: bool, layers: int | None) -> dict[str, Any]:
        """What makes it smaller than real: all that is reduced, and the depth.

        Raises ValueError where there are not as many layers.
        """
        found = {**REDUCED, **self.reduced} if reduced else {}
        most = {**self.config, **found}["num_layers"]
        if layers is None:
            return found
        if layers > most:
            raise ValueError(f"--blocks: expected at most {most}, the layers that there are, got {layers}")
        return {**found, **self._cut(layers)}

    def _cut(self, layers: int) -> dict[str, int]:
        """Flux has two single-stream blocks for each block of two streams."""
        second = {"num_single_layers": 2 * layers} if "num_single_layers" in self.config else {}
        return {"num_layers": layers, **second}


def _dit(side: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, "sample_size": side, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000}
    config["norm_elementwise_affine"] = False
    small = side // 4
    return RealSize(
        "DiTTransformer2DModel", config, batch, (side, side), (small, small), reduced={"sample_size": small}
    )


def _pixart(side: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, **TEXT, "sample_size": side, "norm_type": "ada_norm_single", "norm_eps": 1e-6}
    config["use_additional_conditions"] = side == 128
    small = side // 4
    reduced = {**REDUCED_TEXT, "sample_size": small}
    return RealSize("PixArtTransformer2DModel", config, batch, (side, side), (small, small), reduced)


def _latte(side: int, frames: int, batch: int) -> RealSize:
    config = {**XL, **IMAGE, **TEXT, "sample_size": side, "video_length": frames, "attention_bias": True}
    config["num_embeds_ada_norm"] = 1000
    small = side // 4
    reduced = {**REDUCED_TEXT, "sample_size": small, "video_length": 4}
    return RealSize("LatteTransformer3DModel", config, batch, (frames, side, side), (4, small, small), reduced)


def _flux(side: int) -> RealSize:
    """FLUX.1-dev, on packed latents."""
    config = {"num_layers": 19, "num_single_layers": 38, "in_channels": 64, "guidance_embeds": True}
    config |= {"joint_attention_dim": 4096, "pooled_projection_dim": 768}
    reduced = {"num_layers": 2, "num_single_layers": 4, "axes_dims_rope": (8, 8, 8)}
    reduced |= {"joint_attention_dim": 64, "pooled_projection_dim": 32}
    small = side // 4
    return RealSize("FluxTransformer2DModel", config, 1, (side, side), (small, small), reduced, 512, flow=True)


def _wan(grid: tuple[int, int, int]) -> RealSize:
    config = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "text_dim": 4096}
    config |= {"in_channels": 16, "out_channels": 16}
    reduced = {"ffn_dim": 96, "text_dim": 64}
    return RealSize("WanTransformer3DModel", config, 1, grid, (3, 16, 26), reduced, 512, flow=True)


REAL_SIZES = {
    "dit-xl-256": _dit(32, 16),
    "dit-xl-512": _dit(64, 8),
    "pixart-xl-512": _pixart(64, 8),
    "pixart-xl-1024": _pixart(128, 2),
    "latte-xl-16x256": _latte(32, 16, 2),
    "flux-dev": _flux(64),
    "wan-1.3b": _wan((13, 60, 104)),
}
PRESETS = (*REAL_SIZES, *REFERENCES)

# The parts of `skipcache gpu` in the order in which they are wanted: arguments of `skipcache engines`.
BATCH_2 = ["dit-xl-256", "--batch", "2"]  # as for one image with guidance
PARTS: dict[str, list[str]] = {
    "dit": BATCH_2,
    "dit-keep-0": [*BATCH_2, "--keep", "0"],
    "flux": ["flux-dev"],
    "flux-keep-0": ["flux-dev", "--keep", "0"],
    "graphs": [*BATCH_2, "--compile", "--mode", "reduce-overhead"],
    "peers": [*BATCH_2, "--peers"],
    "wan": ["wan-1.3b"],
    "wan-keep-0": ["wan-1.3b", "--keep", "0"],
    "compiled": [*BATCH_2, "--compile"],
    "compiled-keep-0": [*BATCH_2, "--keep", "0", "--compile"],
    "peers-flux": ["flux-dev", "--peers"],
    "pixart": ["pixart-xl-1024"],
    "latte": ["latte-xl-16x256"],
    "dit-16": ["dit-xl-256", "--batch", "16"],
}
TEST_PART = "tests"  # those of the repository that need a GPU
