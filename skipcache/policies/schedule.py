"""Schedule: the full steps are listed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from skipcache.policies.base import Step


@dataclass(frozen=True)
class Schedule:
    """The listed steps are full, counted from 0 at the start of the trajectory. All steps after the last one are too.

    Args:
        full_steps: ints >= 0, with 0 among them, in any order and in any iterable.

    Raises TypeError for anything but ints, ValueError where 0 is missing.

    Example:
        skipcache.accelerate(pipe, policy=skipcache.Schedule([0, 1, 2, 5, 8, 12, 16, 19]))
    """

    full_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.full_steps) if isinstance(self.full_steps, Iterable) else (self.full_steps,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in steps):
            raise TypeError(f"{type(self).__name__}: expected ints, got {self.full_steps!r}")
        if 0 not in steps or min(steps) < 0:
            raise ValueError(
                f"{type(self).__name__}: expected steps >= 0 with 0 among them, got {steps}; "
                f"the first step is always full"
            )
        object.__setattr__(self, "full_steps", tuple(sorted(set(steps))))

    @property
    def last(self) -> int:
        return self.full_steps[-1]

    @property
    def caches(self) -> bool:
        return len(self.full_steps) <= self.last

    def full(self, step: Step) -> bool:
        return step.index in self.full_steps or step.index > self.last
