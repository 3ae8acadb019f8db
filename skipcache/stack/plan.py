"""Which units run on a cached step: depth and `keep` -> a frozen `Plan` (Skip-Cache, arXiv 2411.17616, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipcache.stack.stack import Stack

Keep = int | Sequence[int]


@dataclass(frozen=True)
class Plan:
    """The cut of a stack of `depth` units (Skip-Cache, arXiv 2411.17616, section 3.3).

    Units [0, head) and [depth - tail, depth) run on every step; the units between them are skipped on cached steps.

    Args:
        depth: the number of units.
        head, tail: units at each end that always run. Raising them costs time and keeps more fidelity.
        skips: (source, target) pairs of units that a skip branch joins: the output of `source` is fused into the input
            of `target`.

    Raises ValueError where no unit is left to skip, or where a branch of the tail would start in a skipped unit.

    Example:
        plan = skipcache.make_plan(28, keep=4)
        plan.deep_units  # range(4, 24)
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
    """The plan that keeps `keep` units at each end.

    Args:
        depth: the number of units of the stack.
        keep: one int for both ends, or (head, tail).
        skips: (source, target) pairs of units that skip branches join. The two ends must then be equal and at least 1,
            so that every branch of the tail starts in the head.

    Raises TypeError for anything but ints, ValueError for ends that do not fit the depth.

    Example:
        skipcache.make_plan(12, keep=(1, 2))
    """
    head, tail = read_keep(keep)
    return Plan(depth, head, tail, tuple((int(i), int(j)) for i, j in skips))


def read_keep(keep: Keep) -> tuple[int, int]:
    ends = (keep, keep) if isinstance(keep, int) else tuple(keep) if isinstance(keep, (tuple, list)) else ()
    if len(ends) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in ends):
        raise TypeError(f"keep: expected an int or (head, tail), got {keep!r}")
    return ends[0], ends[1]


def deep_blocks(stack: Stack, plan: Plan) -> range:
    """The indices among `stack.blocks` of the blocks that a cached step skips."""
    sizes = [len(unit) for unit in stack.units]
    return range(sum(sizes[: plan.head]), sum(sizes[: plan.depth - plan.tail]))
