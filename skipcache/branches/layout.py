"""What skip branches join, and how: pairs of units, the kind of fusion, the widths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

NAME = "skip_branches"  # of the registered module
FUSES = ("add", "concat")


@dataclass(frozen=True)
class Layout:
    """What skip branches are made for. `widths` has one number per stream of the blocks."""

    fuse: str
    pairs: tuple[tuple[int, int], ...]
    depth: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, facts: Any) -> Layout:
        """From JSON. Raises ValueError where that is no layout: anyone may have written it."""
        try:
            fuse, depth, widths = facts["fuse"], facts["depth"], tuple(facts["widths"])
            if fuse not in FUSES or not all(type(n) is int and n > 0 for n in (depth, *widths)) or not widths:
                raise ValueError("a value that cannot be")
            return cls(fuse, make_pairs(depth, facts["pairs"] or ()), depth, widths)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected the layout of skip branches: fuse 'add' or 'concat', pairs of units, depth and widths above "
                f"0; got {str(facts)[:200]} ({type(error).__name__}: {error}); save the branches anew"
            ) from error

    def __str__(self) -> str:
        pairs = ", ".join(f"{i}-{j}" for i, j in self.pairs)
        widths = " and ".join(map(str, self.widths))
        return f"{self.fuse} branches of width {widths} between the units {pairs} of {self.depth}"


def layout_in(state: Tensor) -> Layout:
    """The layout that an extra state tells of."""
    try:
        facts = json.loads(bytes(state.cpu().tolist()))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected the layout of skip branches as JSON in bytes, got none: {error}") from error
    return Layout.of(facts)


def check_layout(given: Layout, ours: Layout) -> None:
    if given != ours:
        raise ValueError(f"the weights are of {given}, but the model has {ours}; ungraft it, or graft it alike")


def make_pairs(depth: int, pairs: Sequence[tuple[int, int]] | None = None) -> tuple[tuple[int, int], ...]:
    """Pairs (source, target) of units for skip branches, by source: all (i, depth - 1 - i) where none are given.

    Raises TypeError for anything but pairs of ints, ValueError where they cross or repeat a unit, or where one does not
    lead from the first half of the stack into the second.
    """
    if pairs is None:
        pairs = [(i, depth - 1 - i) for i in range(depth // 2)]
    made = [tuple(pair) if isinstance(pair, (tuple, list)) else () for pair in pairs]
    if not all(len(pair) == 2 and all(type(unit) is int for unit in pair) for pair in made):
        raise TypeError(f"pairs: expected (source, target) pairs of ints, got {pairs!r}")
    if not made:
        raise ValueError(f"pairs: expected at least one, got none; a stack of {depth} units may have {depth // 2}")
    made.sort()
    half, units = depth // 2, [unit for pair in made for unit in pair]
    for source, target in made:
        if not (0 <= source < half and depth - half <= target < depth):
            raise ValueError(
                f"pairs: expected a source in [0, {half}) and a target in [{depth - half}, {depth}), "
                f"got ({source}, {target}): a branch leads from the first half of the stack into the second"
            )
    if len(set(units)) < len(units):
        raise ValueError(f"pairs: expected each unit in one pair at most, got {made}")
    if any(one[1] < other[1] for one, other in pairwise(made)):
        raise ValueError(f"pairs: expected nested ones, the last source with the first target, got {made}, which cross")
    return tuple((source, target) for source, target in made)
