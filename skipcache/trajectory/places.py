"""What a call can be: a step that is open, and the answers to where a call stands."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from skipcache.blocks import on_host
from skipcache.policies import Step
from skipcache.trajectory.lanes import Found, Lane, Lanes
from skipcache.trajectory.time import Direction, Instant

ROUNDING = 0.001  # turns below it tell nothing of two runs

T = TypeVar("T")

if TYPE_CHECKING:
    from skipcache.trajectory.trajectory import Trajectory


@dataclass(eq=False)
class OpenStep:
    """The step that the trajectory is at.

    Attributes:
        index: counts the trajectory's steps from 0; `before` is the index of the step before, -1 at the first.
        full: what was decided for the step as a whole. A single call of it may be full nevertheless.
        view: what policies see of it.
        counted_full: it was counted as a full step. One full call is enough for that.
        looked: the policy asked for values that other processes may have others of.
    """

    index: int
    before: int
    instant: Instant
    view: Step
    full: bool = True
    counted_full: bool = False
    looked: bool = False


@dataclass(frozen=True, eq=False)
class Fits:
    """The call belongs to the trajectory.

    Attributes:
        instant: its time, with the position in the trajectory's own run.
        steps: how many it is after the last call; 0: at the same step.
        found: among the lanes.
        turn: of the sample, where it was measured: how far it is from what its lane's last one leads to, 0 to 1.
        is_sure: nothing is left to doubt: the sample was measured, or position and conditioning are the lane's own.
    """

    instant: Instant
    steps: int
    found: Found
    turn: float | None = None
    is_sure: bool = False

    @property
    def lane(self) -> Lane | None:
        return self.found.lane

    @property
    def is_best(self) -> bool:
        """No other run can fit better: the lane has this conditioning, its sample turned by no more than rounding."""
        return self.is_sure and self.found.is_same and self.turn is not None and self.turn <= ROUNDING

    @property
    def compared(self) -> bool:
        """It rests on values, beside the identity of tensors."""
        return self.turn is not None or self.instant.position is None or not self.found.is_same


@dataclass(frozen=True, eq=False)
class NewRun:
    """The call begins a run.

    Attributes:
        in_turns: at the very time of a run came another sample with its conditioning, and samples are not read. The
            two may be tiles of one image: neither may then reuse anything.
        instead: all but its sample said that the call goes on with the run before.
        turn: of that sample, where it may be the same run nevertheless, whose sampler begins to clip or to draw noise.
        sense: where the timesteps of the run went that the call did not go on with; 0: not known.
    """

    in_turns: bool = False
    instead: bool = False
    turn: float | None = None
    sense: int = 0


@dataclass(frozen=True, eq=False)
class Repeat:
    """The call repeats one of this step, of `lane`: same sample, timestep and conditioning. It must run plain.

    `state`: of the model, in which it may have been called at one time with another one.
    """

    lane: Lane
    state: Hashable = None

    def note(self, output: Any) -> None:
        """The model gave `output`, and the sampler may go on with it."""
        self.lane.repeated_in = self.state
        if self.lane.seen is not None:
            self.lane.seen.note(output)


Place = Fits | NewRun | Repeat


@dataclass(frozen=True, eq=False)
class Visit:
    """The answer for one call: its run, its lane, its step, and whether all blocks must run.

    `opens_step`: no other call of the step came before. `compared`: where the call stands was told by values too.
    `doubt`: why the call begins a run though it seemed to go on with one.
    """

    run: Trajectory
    lane: Lane
    at: OpenStep
    full: bool
    opens_step: bool
    compared: bool = True
    doubt: str | None = None

    @property
    def step(self) -> int:
        """The index of the step."""
        return self.at.index

    def note(self, output: Any) -> None:
        """The model gave `output`, and the sampler goes on with it."""
        self.lane.note(output)


def view_of(
    instant: Instant,
    last: OpenStep | None,
    index: int,
    since: int,
    direction: Direction,
    lanes: Lanes,
    look: Callable[[], None],
) -> Step:
    """What policies see of the step that opens at `instant`, `since` steps after the last full one.

    `look` is called when a policy asks for values.
    """
    run = instant.run

    def looking(value: Callable[[], T]) -> Callable[[], T]:
        def looked() -> T:
            look()
            return value()

        return looked

    before, before_at = (None, -1) if last is None else (last.instant, last.index)
    return Step(
        index,
        timesteps=looking(lambda: instant.timesteps),
        before=None if before is None else looking(lambda: before.timesteps),
        direction=looking(lambda: direction.sense if run is None else run.direction),
        count=None if run is None else len(run.timesteps),
        position=instant.position,
        scheduler=None if run is None or run.scheduler is None else type(run.scheduler).__name__,
        noisy=run is not None and run.is_noisy,
        on_host=on_host(instant.timestep),
        times=lambda: None if run is None else run.times,
        since=since,
        drift=looking(lambda: lanes.drift(before_at)),
    )
