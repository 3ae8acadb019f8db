"""HunyuanDiT (arXiv 2405.08748), of diffusers: a block is a unit, and the stack has skip branches of its own.

Block L // 2 + 1 + j takes what block L // 2 - 2 - j returned, so that Skip-Cache works on the public weights.
"""

from __future__ import annotations

from torch import nn

from skipcache.stack import Stack, argument_names, one_per_block


def describe(model: nn.Module) -> Stack | None:
    """Told by blocks with a skip branch, and by the second text encoder's states."""
    names = argument_names(model)
    units = one_per_block(model, "blocks")
    if len(units) < 4 or not {"hidden_states", "timestep", "encoder_hidden_states_t5"} <= set(names):
        return None
    joined = [getattr(model.get_submodule(path), "skip_linear", None) is not None for (path,) in units]
    if not any(joined):
        return None
    return Stack(units, sample="hidden_states", timestep="timestep", native_skips=True)
