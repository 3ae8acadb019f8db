"""Skip branches (Skip-DiT, arXiv 2411.17616): the output of a shallow unit is fused into the input of a deep one.

The branches are one registered module, `model.skip_branches`, so that state_dict, `.to`, optimisers, DDP, FSDP and EMA
see them. Overrides of the blocks' `forward` carry a feature from unit to unit. They lie inside those of the hook
engine, so that a deep block that is skipped does not fuse. A graph passes the feature as an argument instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from skipcache.blocks import check_plain, is_divided
from skipcache.branches.layout import FUSES, NAME, Layout, make_pairs
from skipcache.branches.modules import SkipBranches, branches_of
from skipcache.branches.widths import widths_of
from skipcache.stack import Stack, check_stack, find_stack


def graft(
    model: nn.Module,
    fuse: str = "add",
    pairs: Sequence[tuple[int, int]] | None = None,
    *,
    stack: Stack | None = None,
    streams: int | None = None,
    width: int | Sequence[int] | None = None,
) -> nn.Module:
    """Give `model` skip branches, in place: the output of unit `source` is fused into the input of unit `target`.

    Args:
        fuse: "concat": W . LayerNorm(concat[x, skip]) + b in the place of x, as in Skip-DiT; the model must then be
            trained. "add": the same added to x, with W and b zero: the model's outputs stay as they are until trained.
        pairs: (source, target) units, nested; by default every unit of the first half with its mirror image.
        stack: where the blocks are, for a model whose structure does not show it.
        streams: how many tensors a block returns; by default as its code shows. Each stream has a branch.
        width: D of the streams, one int or one per stream; by default what most of a block's linear layers take in.

    Returns `model`. Raises ValueError or TypeError, before the model is touched, where it is accelerated (restore it
    first), has branches already, its own or grafted ones, or where pairs do not fit.

    Example:
        skipcache.graft(pipe.transformer, fuse="add", pairs=[(0, 11), (1, 10)])
    """
    if fuse not in FUSES:
        raise ValueError(f"fuse: expected 'add' or 'concat', got {fuse!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got {type(model).__name__}; of a pipeline pass its transformer")
    check_plain(model, "first")
    if branches_of(model) is not None:
        raise ValueError(f"{type(model).__name__} has grafted skip branches; call skipcache.ungraft first")
    if any(map(is_divided, model.parameters())):
        raise ValueError(
            f"{type(model).__name__} is sharded, and branches that come later would be trained apart on each process; "
            f"graft the model first, and shard it then"
        )
    if stack is not None:
        check_stack(model, stack)
    stack = stack or find_stack(model)
    if stack.native_skips:
        raise ValueError(f"{type(model).__name__} has skip branches of its own; accelerate it as it is")
    depth = len(stack.units)
    joined = make_pairs(depth, pairs)
    layout = Layout(fuse, joined, depth, widths_of(model, stack, joined, streams, width))
    _put_on(model, stack, layout)
    return model


def ungraft(model: nn.Module) -> nn.Module:
    """Take grafted skip branches off, with their weights. Returns `model`.

    Raises ValueError where there are none, or where the model is accelerated.

    Example:
        skipcache.ungraft(pipe.transformer)
    """
    branches = branches_of(model)
    if branches is None:
        raise ValueError(
            f"{type(model).__name__} has no grafted skip branches; those that belong to a model stay in it"
        )
    check_plain(model, "first")
    for override in reversed(branches.overrides):
        override.take_off()
    delattr(model, NAME)
    return model


def _put_on(model: nn.Module, stack: Stack, layout: Layout) -> None:
    branches = SkipBranches(model, stack, layout)
    like = next((p for p in model.get_submodule(stack.blocks[0]).parameters() if p.is_floating_point()), None)
    if like is not None:
        branches.to(like.device if like.device.type != "meta" else None, like.dtype)
    branches.train(model.training)
    model.add_module(NAME, branches)
    for override in branches.overrides:
        override.put_on()
