"""What a call can be: a step that is open, and the answers to where a call stands."""

from __future__ import annotations

from dataclasses import dataclass

from skipcache.policies import Step
from skipcache.trajectory.clock import Instant
from skipcache.trajectory.lanes import Lane


@dataclass(eq=False)
class OpenStep:
    """The step that the trajectory is at.

    Attributes:
        index: counts the trajectory's steps from 0; `before` is the index of the step before, -1 at the first.
        full: what was decided for the step as a whole. A single call of it may be full nevertheless.
        view: what policies see of it.
        counted_full: it was counted as a full step. One full call is enough for that.
    """

    index: int
    before: int
    instant: Instant
    view: Step
    full: bool = True
    counted_full: bool = False


@dataclass(frozen=True)
class Ahead:
    """The call is so many steps after the last one; 0: at the same step."""

    steps: int


class NewRun:
    """The call begins a trajectory."""


class Unknown:
    """Only reading the device could tell."""


class Repeat:
    """The call repeats one of this step: same sample, timestep and conditioning. It must leave no trace."""


Advance = Ahead | NewRun | Unknown


@dataclass(frozen=True)
class Place:
    """Where a call belongs: its lane, None for an unseen one, and how far it is from the last call."""

    lane: Lane | None
    advance: Ahead | NewRun | Repeat
    instant: Instant


@dataclass(frozen=True)
class Visit:
    """The answer for one call: its lane, its step, and whether all blocks must run.

    `opens_step`: no other call of the step came before.
    """

    lane: Lane
    at: OpenStep
    full: bool
    opens_step: bool

    @property
    def step(self) -> int:
        """The index of the step."""
        return self.at.index
