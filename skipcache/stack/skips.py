"""Skip branches that a model's own blocks have: what shows them, and the U-shaped stacks that they make."""

from __future__ import annotations

import inspect

from torch import nn


def takes_skip(block: nn.Module) -> bool:
    """The block takes the output of an earlier one, by an argument `skip`, or by another one and a module for it.

    `skip_layer_mask` (LTX-Video) says which layers to leave out. It comes with no module, and is no branch.
    """
    names = [name for name in inspect.signature(block.forward).parameters if "skip" in name]
    return "skip" in names or (bool(names) and fuses_skip(block))


def fuses_skip(block: nn.Module) -> bool:
    """The block has a layer for its skip branch."""
    return any("skip" in name for name, _ in block.named_children())


def are_halves(first: nn.ModuleList, second: nn.ModuleList) -> bool:
    """As many blocks of one class in both lists, those of the second with skip branches (U-ViT, arXiv 2209.12152)."""
    alike = len(first) == len(second) and {type(block) for block in first} == {type(block) for block in second}
    return alike and all(map(fuses_skip, second)) and not any(map(fuses_skip, first))


def lone_blocks(model: nn.Module, path: str, blocks: nn.ModuleList) -> list[str]:
    """The paths of blocks of the same class that stand beside the list at `path`, in no list: the middle of a U."""
    parent, _, _ = path.rpartition(".")
    children = model.get_submodule(parent).named_children()
    return [f"{parent}.{name}".lstrip(".") for name, child in children if type(child) is type(blocks[0])]
