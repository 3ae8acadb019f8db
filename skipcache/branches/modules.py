"""The modules of skip branches, and the overrides that carry a feature to them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipcache.blocks import Streams, arguments_of
from skipcache.branches.layout import NAME, Layout, check_layout, layout_in
from skipcache.branches.taps import Channel, Fuse, Tap
from skipcache.stack import Stack


class Float32LayerNorm(nn.LayerNorm):
    """Computed in float32 at least, whatever the dtype of input and weights; the output has the input's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(input.to(dtype), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class SkipBranch(nn.Module):
    """Fuses a skip into one stream, both (..., D): W . LayerNorm(concat[x, skip]) + b, W of (D, 2D).

    `concat` puts that in the place of x, as Skip-DiT does. `add` adds it to x; W and b begin as zeros, so that x stays.
    """

    def __init__(self, width: int, fuse: str) -> None:
        super().__init__()
        self.adds = fuse == "add"
        self.norm = Float32LayerNorm(2 * width, eps=1e-6)
        self.linear = nn.Linear(2 * width, width)
        nn.init.zeros_(self.linear.bias)
        if self.adds:
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        fused: Tensor = self.linear(self.norm(torch.cat([x, skip], dim=-1)))
        return x + fused if self.adds else fused


class SkipBranches(nn.Module):
    """All branches of a model, by pair and stream: `skip_branches.0.0.linear.weight`."""

    def __init__(self, model: nn.Module, stack: Stack, layout: Layout) -> None:
        super().__init__()
        self.stack, self.layout = stack, layout
        for i in range(len(layout.pairs)):
            self.add_module(str(i), nn.ModuleList(SkipBranch(width, layout.fuse) for width in layout.widths))
        units, flat = stack.units, stack.blocks
        targets = {units[target][0]: (str(i), units[source][-1]) for i, (source, target) in enumerate(layout.pairs)}
        before = {path: flat[flat.index(path) - 1] for path in targets}
        self.channel = channel = Channel()
        sources = {source for _, source in targets.values()}
        taps = sources | set(before.values())
        self.overrides: tuple[Tap | Fuse, ...] = (
            *(Tap(model.get_submodule(path), channel, path, path in sources) for path in flat if path in taps),
            *(
                Fuse(model.get_submodule(path), channel, stack, self, path, before[path], *targets[path])
                for path in targets
            ),
        )

    def get_extra_state(self) -> Tensor:
        """The layout, as bytes in a tensor: what saves tensors saves it."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self.layout)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        check_layout(layout_in(state), self.layout)

    def wire(self, path: str, args: Any, kwargs: Any, returned: Mapping[str, Streams]) -> dict[Hashable, Tensor] | None:
        """What a graph hands over to the block at `path`, `returned` being what blocks have returned so far.

        Empty for a block that only gives, None for one that no branch knows.
        """
        ours = [override for override in self.overrides if override.path == path]
        for override in ours:
            if isinstance(override, Fuse):
                return override.wire(arguments_of(args, kwargs), returned)
        return {} if ours else None


def branches_of(model: nn.Module) -> SkipBranches | None:
    """The grafted branches of `model`, if any."""
    found = getattr(model, "_modules", {}).get(NAME)
    return found if isinstance(found, SkipBranches) else None


def grafted_branches(model: nn.Module) -> SkipBranches:
    """The same, where there must be some. Raises ValueError where there are none."""
    branches = branches_of(model)
    if branches is None:
        raise ValueError(f"{type(model).__name__} has no grafted skip branches; call skipcache.graft first")
    return branches
