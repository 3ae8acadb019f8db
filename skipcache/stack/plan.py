"""Which units run on a cached step: depth and `keep` -> a frozen `Plan` (Skip-Cache, arXiv 2411.17616, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Keep = int | Sequence[int]


@dataclass(frozen=True)
class Plan:
    """The cut of a stack of `depth` units: [0, head) and [depth - tail, depth) run on every step, the rest is cached.

    `skips` are the (source, target) pairs of units that a skip branch joins: the output of `source` is fused into the
    input of `target`.
    """

    depth: int
    head: int
    tail: int
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("head", "tail"):
            if getattr(self, name) < 0:
                raise ValueError(f"keep: expected {name} >= 0, got {getattr(self, name)}; 0 runs no unit at that end")
        if self.head + self.tail >= self.depth:
            raise ValueError(
                f"keep: expected head + tail < {self.depth}, the depth of the stack, got {self.head} + {self.tail}; "
                f"keep less, so that at least one unit can be skipped"
            )
        if self.skips and (self.head != self.tail or self.head < 1):
            raise ValueError(
                f"keep: a stack with skip branches needs head = tail >= 1, got ({self.head}, {self.tail}); "
                f"pass one int, as keep=1"
            )
        stale = [(i, j) for i, j in self.skips if j in self.tail_units and i not in self.head_units]
        if stale:
            raise ValueError(
                f"keep: the skip branches {stale} end in the tail but start in units that a cached step skips; "
                f"keep {min(self.depth - 1 - j for _, j in stale)} or {max(i for i, _ in stale) + 1} units at each end"
            )

    @property
    def head_units(self) -> range:
        return range(self.head)

    @property
    def deep_units(self) -> range:
        return range(self.head, self.depth - self.tail)

    @property
    def tail_units(self) -> range:
        return range(self.depth - self.tail, self.depth)


def make_plan(depth: int, keep: Keep = 1, skips: Sequence[tuple[int, int]] = ()) -> Plan:
    """The plan that keeps `keep` units at each end: one int for both, or (head, tail).

    With skip branches the two ends must be equal and at least 1, so that every branch of the tail starts in the head.
    Raises TypeError for anything but ints, ValueError for ends that do not fit the depth.
    """
    head, tail = read_keep(keep)
    return Plan(depth, head, tail, tuple((int(i), int(j)) for i, j in skips))


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


def read_keep(keep: Keep) -> tuple[int, int]:
    ends = (keep, keep) if isinstance(keep, int) else tuple(keep) if isinstance(keep, (tuple, list)) else ()
    if len(ends) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in ends):
        raise TypeError(f"keep: expected an int or (head, tail), got {keep!r}")
    return ends[0], ends[1]
