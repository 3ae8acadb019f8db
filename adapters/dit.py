"""DiT (arXiv 2212.09748): diffusers' DiTTransformer2DModel and the original DiT. A block is a unit."""

from __future__ import annotations

from torch import nn

from skipcache.stack import Stack, argument_names, one_per_block


def describe(model: nn.Module) -> Stack | None:
    """Diffusers: class labels, and a timestep embedder in each block. Original: `forward(x, t, y)`."""
    names = argument_names(model)
    units = one_per_block(model, "transformer_blocks")
    if units and {"hidden_states", "timestep", "class_labels"} <= set(names):
        embeds = all(hasattr(getattr(model.get_submodule(path), "norm1", None), "emb") for (path,) in units)
        return Stack(units, sample="hidden_states", timestep="timestep") if embeds else None
    units = one_per_block(model, "blocks")
    parts = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
    if units and names[:3] == ["x", "t", "y"] and all(hasattr(model, part) for part in parts):
        return None if hasattr(model, "temp_embed") else Stack(units, sample="x", timestep="t")
    return None
