"""Timestep values, and the direction in which they go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Values = tuple[float, ...]


def timestep_values(timestep: Tensor | float) -> Values:
    """The values of a timestep argument, one where all are equal. On a device this synchronises."""
    if not isinstance(timestep, Tensor):
        return (float(timestep),)
    values = tuple(map(float, timestep.detach().flatten().tolist()))
    return values[:1] if len(set(values)) == 1 else values


def direction(before: Values, after: Values) -> int | None:
    """-1 where timesteps fall, +1 where they rise, 0 where they do neither; None where some fall and others rise.

    One value stands for a whole vector of equal ones.
    """
    if len(before) == len(after) == 1:
        return (after[0] > before[0]) - (after[0] < before[0])
    size = max(len(before), len(after))
    pairs = zip(before * (size // len(before)), after * (size // len(after)))
    turns = {(now > then) - (now < then) for then, now in pairs} - {0}
    return None if len(turns) > 1 else turns.pop() if turns else 0


@dataclass
class Direction:
    """The direction of one trajectory, learned from its first two distinct timesteps.

    Attributes:
        sense: -1 falling, +1 rising, 0 not known yet.
        agreement: whether the scheduler's own timesteps go where the calls' timesteps go (+1), or against (-1).
    """

    sense: int = 0
    agreement: int = 0

    def turns_back(self, before: Values, after: Values) -> bool:
        """`after` lies against the direction of the trajectory, or has none."""
        turn = direction(before, after)
        return turn is None or (self.sense != 0 and turn == -self.sense)

    def learn(self, before: Values, after: Values) -> None:
        """Take the direction from two timesteps, where it is not known."""
        self.sense = self.sense or direction(before, after) or 0

    def fits(self, calls: int | None, scheduler: int | None) -> bool:
        """The scheduler's position may belong to the calls: the two directions go together, as far as is known."""
        if calls is None or scheduler is None:
            return False
        together = calls * scheduler
        return together == (self.agreement or together) if together else calls == scheduler

    def agree(self, calls: int | None, scheduler: int | None) -> None:
        """Both directions were seen."""
        self.agreement = self.agreement or (calls or 0) * (scheduler or 0)
