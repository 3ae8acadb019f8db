"""Latte (arXiv 2401.03048): diffusers' LatteTransformer3DModel and the original's alternating or paired blocks.

A unit is a (spatial, temporal) pair: the spatial block works on (batch * frames, tokens, D), the temporal one on
(batch * tokens, frames, D).
"""

from __future__ import annotations

from torch import nn

from skipcache.stack import Stack, argument_names, one_per_block


def describe(model: nn.Module) -> Stack | None:
    """Diffusers: two lists run in turn. Original, by `temp_embed`: `blocks` alternates, or two lists run in turn."""
    names = argument_names(model)
    timestep = "timestep" if "timestep" in names else "t"
    if timestep not in names:
        return None
    if hasattr(model, "temp_pos_embed"):
        return _pairs(model, "transformer_blocks", "temporal_transformer_blocks", names[0], timestep)
    if not hasattr(model, "temp_embed"):
        return None
    blocks = [path for (path,) in one_per_block(model, "blocks")]
    if blocks and len(blocks) % 2 == 0:
        return _stack(tuple(zip(blocks[::2], blocks[1::2])), names[0], timestep)
    return _pairs(model, "spatial_blocks", "temporal_blocks", names[0], timestep)


def _pairs(model: nn.Module, spatial: str, temporal: str, sample: str, timestep: str) -> Stack | None:
    units = tuple((s, t) for (s,), (t,) in zip(one_per_block(model, spatial), one_per_block(model, temporal)))
    return _stack(units, sample, timestep) if units else None


def _stack(units: tuple[tuple[str, str], ...], sample: str, timestep: str) -> Stack:
    return Stack(units, sample, timestep, transposed=frozenset(temporal for _, temporal in units))
