"""PixArt-alpha and -Sigma (arXiv 2310.00426, 2403.04692): diffusers' PixArtTransformer2DModel and the original.

A block is a unit.
"""

from __future__ import annotations

from torch import nn

from skipcache.stack import Stack, argument_names, one_per_block


def describe(model: nn.Module) -> Stack | None:
    """Diffusers: told by `adaln_single` and its conditions. Original: `forward(x, timestep, y, mask)` and `t_block`."""
    names = argument_names(model)
    units = one_per_block(model, "transformer_blocks")
    parts = ("adaln_single", "caption_projection", "scale_shift_table")
    if units and {"hidden_states", "timestep", "added_cond_kwargs"} <= set(names) and _has(model, *parts):
        return Stack(units, sample="hidden_states", timestep="timestep")
    units = one_per_block(model, "blocks")
    if units and names[:3] == ["x", "timestep", "y"] and _has(model, "t_block", "y_embedder", "final_layer"):
        return Stack(units, sample="x", timestep="timestep")
    return None


def _has(model: nn.Module, *parts: str) -> bool:
    return all(hasattr(model, part) for part in parts)
