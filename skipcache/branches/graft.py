"""Skip branches (Skip-DiT, arXiv 2411.17616): the output of a shallow unit is fused into the input of a deep one.

The branches are one registered module, `model.skip_branches`, so that state_dict, `.to`, optimisers, DDP, FSDP and EMA
see them. What carries a feature from unit to unit are overrides of the blocks' `forward`, inside those of the hook
engine: a deep block that is skipped does not fuse. Graphs pass the feature on in the open instead, as an argument.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipcache.blocks.override import check_plain
from skipcache.blocks.streams import Streams, arguments_of, stream_count, usual_width
from skipcache.branches.taps import Channel, Fuse, Tap
from skipcache.stack.plan import Keep, Plan, make_pairs, make_plan
from skipcache.stack.stack import Stack, check_stack, find_stack

NAME = "skip_branches"
FUSES = ("add", "concat")


@dataclass(frozen=True)
class Layout:
    """What skip branches are made for. `widths` has one number per stream of the blocks."""

    fuse: str
    pairs: tuple[tuple[int, int], ...]
    depth: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Layout:
        """From JSON."""
        pairs = tuple((int(i), int(j)) for i, j in facts["pairs"])
        return cls(facts["fuse"], pairs, facts["depth"], tuple(facts["widths"]))

    def __str__(self) -> str:
        pairs = ", ".join(f"{i}-{j}" for i, j in self.pairs)
        widths = " and ".join(map(str, self.widths))
        return f"{self.fuse} branches of width {widths} between the units {pairs} of {self.depth}"


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
    """
    if fuse not in FUSES:
        raise ValueError(f"fuse: expected 'add' or 'concat', got {fuse!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got {type(model).__name__}; of a pipeline pass its transformer")
    check_plain(model, "first")
    if branches_of(model) is not None:
        raise ValueError(f"{type(model).__name__} has grafted skip branches; call skipcache.ungraft first")
    if stack is not None:
        check_stack(model, stack)
    stack = stack or find_stack(model)
    if stack.native_skips:
        raise ValueError(f"{type(model).__name__} has skip branches of its own; accelerate it as it is")
    depth = len(stack.units)
    joined = make_pairs(depth, pairs)
    layout = Layout(fuse, joined, depth, _widths(model, stack, joined, streams, width))
    _put_on(model, stack, layout)
    return model


def ungraft(model: nn.Module) -> nn.Module:
    """Take grafted skip branches off, weights and all. Raises ValueError where there are none."""
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


def stack_of(model: nn.Module) -> Stack:
    """The stack that branches were grafted on, else the one that is found."""
    branches = branches_of(model)
    return find_stack(model) if branches is None else branches.stack


def planned(model: nn.Module, keep: Keep, stack: Stack | None = None) -> tuple[Stack, Plan]:
    """The stack of `model`, unless it is given, and the plan that its skip branches, grafted or its own, allow."""
    if stack is not None:
        check_stack(model, stack)
    stack, branches = stack or stack_of(model), branches_of(model)
    if branches is not None and stack.units != branches.stack.units:
        raise ValueError("stack: expected the units that the skip branches were grafted on; leave stack out")
    plan = make_plan(len(stack.units), keep, () if branches is None else branches.layout.pairs)
    if stack.native_skips and (plan.head != plan.tail or plan.head < 1):
        raise ValueError(f"keep: {type(model).__name__} has skip branches, which need head = tail >= 1, got {keep}")
    return stack, plan


def layout_in(state: Tensor) -> Layout:
    """The layout that an extra state tells of."""
    return Layout.of(json.loads(bytes(state.cpu().tolist())))


def check_layout(given: Layout, ours: Layout) -> None:
    if given != ours:
        raise ValueError(f"the weights are of {given}, but the model has {ours}; ungraft it, or graft it alike")


def _put_on(model: nn.Module, stack: Stack, layout: Layout) -> None:
    branches = SkipBranches(model, stack, layout)
    like = next((p for p in model.get_submodule(stack.blocks[0]).parameters() if p.is_floating_point()), None)
    if like is not None:
        branches.to(like.device if like.device.type != "meta" else None, like.dtype)
    branches.train(model.training)
    model.add_module(NAME, branches)
    for override in branches.overrides:
        override.put_on()


def _widths(
    model: nn.Module,
    stack: Stack,
    pairs: Sequence[tuple[int, int]],
    streams: int | None,
    width: int | Sequence[int] | None,
) -> tuple[int, ...]:
    ends = [(stack.units[source][-1], stack.units[target][0]) for source, target in pairs]
    counts = {path: stream_count(model.get_submodule(path)) for source, target in ends for path in (source, target)}
    if streams is None:
        uneven = [(source, target) for source, target in ends if counts[source] != counts[target]]
        if uneven:
            source, target = uneven[0]
            raise ValueError(
                f"pairs: {source} returns {counts[source]} tensors and {target} {counts[target]}, so that no branch "
                f"can join them; leave the pair out, or pass streams=... if that was misread"
            )
        streams = counts[ends[0][0]]
    if type(streams) is not int or streams < 1:
        raise ValueError(f"streams: expected an int of at least 1, got {streams!r}")
    if width is None:
        width = usual_width(model.get_submodule(ends[0][1]))
    widths = (width,) * streams if isinstance(width, int) else tuple(width)
    if len(widths) != streams or not all(type(n) is int and n > 0 for n in widths):
        raise ValueError(f"width: expected a positive int for each of {streams} streams, got {width!r}")
    return widths
