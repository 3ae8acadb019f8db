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


def direction(before: Values, after: Values) -> int:
    """-1 where timesteps fall, +1 where they rise, 0 where they do neither; vectors are compared by their means."""
    change = sum(after) * len(before) - sum(before) * len(after)
    return (change > 0) - (change < 0)


@dataclass
class Direction:
    """The direction of one trajectory, learned from its first two distinct timesteps.

    Attributes:
        sense: -1 falling, +1 rising, 0 not known yet.
        rises: the trajectory before rose. The first rise of all may be a falling run that follows a lone call; from
            the second time on it is believed.
        agreement: whether the scheduler's own timesteps go where the calls' timesteps go (+1), or against (-1).
    """

    sense: int = 0
    rises: bool = False
    agreement: int = 0

    def restart(self) -> None:
        """A trajectory begins; whether the one before rose is remembered."""
        self.sense = self.agreement = 0

    def turns_back(self, before: Values, after: Values) -> bool:
        """`after` lies against the direction of the trajectory."""
        return self.sense != 0 and direction(before, after) == -self.sense

    def learn(self, before: Values, after: Values) -> bool:
        """Take the direction from two timesteps; True where it is a first rise, which is not to be trusted yet."""
        self.sense = direction(before, after)
        first_rise = self.sense > 0 and not self.rises
        self.rises = self.sense > 0
        return first_rise

    def contradicts(self, calls: int, scheduler: int) -> bool:
        """The scheduler's position does not belong to the calls: the two directions do not go together."""
        together = calls * scheduler
        self.agreement = self.agreement or together
        return together != self.agreement if together else calls != scheduler
