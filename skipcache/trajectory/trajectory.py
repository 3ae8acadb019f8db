"""Calls -> (trajectory, step, lane), with no step count and no reset by the user; owns the cached features.

A trajectory is one sampling run. It begins at the first call, at a scheduler's `set_timesteps`, at a timestep against
the direction of the run, and at a sample of another shape, dtype or device. In doubt a step is full: a wrong reuse is
a defect, a lost saving is not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipcache.blocks.streams import Streams
from skipcache.policies.base import Policy, Step, reads_drift
from skipcache.predictors.base import Predictor
from skipcache.trajectory.call import Call, on_host
from skipcache.trajectory.clock import Clock, Moment, direction
from skipcache.trajectory.drift import agreed
from skipcache.trajectory.lanes import Lane, Lanes


@dataclass(frozen=True)
class Visit:
    """The answer for one call. `opens_step`: no other call of this step came before it. `time`: what policies see."""

    lane: Lane
    step: int
    full: bool
    opens_step: bool
    time: Step


class Trajectory:
    """The run that one thread is in. `visit` places a call, `record` keeps what a full step left."""

    def __init__(self, policy: Policy, predictor: Predictor, ignored: tuple[Tensor, ...] = ()) -> None:
        self.policy, self.predictor = policy, predictor
        self.clock = Clock(ignored)
        self._follows = reads_drift(policy)
        self._agrees = bool(getattr(policy, "agree", False))
        self._rises = False
        self.drop()

    def drop(self) -> None:
        """Forget the run: the next call begins another one."""
        self.lanes = Lanes(self._follows)
        self._moment: Moment | None = None
        self._sample: Hashable = None
        self._direction = self._sense = 0
        self._in_turns = False
        self._index = self._last_index = self._last_full = -1
        self._full = True
        self._time: Step

    def visit(self, call: Call, schedulers: Sequence[Any] = ()) -> Visit:
        """Where `call` stands. The lane is entered, so that another call of it is known for another step."""
        moment = self.clock.read(call, list(schedulers), self._moment)
        lane, advance = self._place(call, moment)
        if advance < 0:
            in_turns = lane is not None and lane.sample is not None and not lane.sample.same(call.sample)
            moment = self._begin(call, moment)
            lane, advance, self._in_turns = None, 1, in_turns
        if advance:
            self._open_step(moment, advance)
        full = self._full or lane is None or lane.full_steps[:1] < [self._last_full]
        if self._agrees and agreed(full, call.sample.device) and not full:
            full = True
            if advance:
                self._full, self._last_full = True, self._index
        lane = lane or self.lanes.add(call)
        lane.enter(call, self._index)
        return Visit(lane, self._index, full, bool(advance), self._time)

    def record(self, visit: Visit, H: Streams | None, D: Streams) -> None:
        visit.lane.record(visit.step, H, D, self.predictor)

    @property
    def tensors(self) -> list[Tensor]:
        """The cached features."""
        return self.lanes.tensors

    def _place(self, call: Call, moment: Moment) -> tuple[Lane | None, int]:
        """The lane of `call`, and by how many steps it is ahead of the last call; -1: it begins a trajectory."""
        last = self._moment
        if last is None or moment.run is not last.run or call.sample_structure != self._sample:
            return None, -1
        ahead = self._ahead(moment, last)
        if ahead is not None and ahead < 0:
            return None, -1
        if ahead is None:
            lane = self.lanes.find(call, self._index, self._last_index)
            ahead = self._ahead(moment, last, read=True) if lane is None else 0
        elif ahead == 0:
            lane = self.lanes.find(call, self._index, self._last_index)
        else:
            lane = self.lanes.find(call, self._index + 1, self._index)
        if ahead == 0 and lane is not None and lane.step == self._index:
            return lane, self._again(call, lane, moment)
        if moment.run is None and ahead == 1 and not self.lanes.know(call.structure):
            return None, -1
        return lane, 1 if ahead is None else ahead

    def _ahead(self, moment: Moment, last: Moment, read: bool = False) -> int | None:
        """Steps from `last` to `moment`, -1 for a turn back; None where only a look at the device could tell."""
        if moment.position is not None:
            if self._contradicts(moment, last):
                return -1
            # A scheduler's step_index is None until its first step, so that a position then is one step on.
            return max(moment.position - last.position, -1) if last.position is not None else 1
        if moment.is_dark and not read:
            return 0 if last.mark.same(moment.mark.value) else None
        if moment.timesteps == last.timesteps:
            return 0
        turn = direction(last.timesteps, moment.timesteps)
        return -1 if turn == -self._direction != 0 else 1

    def _contradicts(self, moment: Moment, last: Moment) -> bool:
        """The scheduler's count is not of this call: timesteps do not move with it. So in a loop of the user's own."""
        turns = moment.turns(last)
        if turns is None:
            return False
        here, there = turns
        sense = here * there
        self._sense = self._sense or sense
        return sense != self._sense if sense else here != there

    def _again(self, call: Call, lane: Lane, moment: Moment) -> int:
        """Steps ahead for a second call of `lane` at one time.

        Another sample is the next step where the scheduler's timesteps repeat, or may for all that is known. Else it
        is another run, perhaps in turns with this one (tiles of one image), and then neither may reuse anything.
        """
        if lane.sample is None or lane.sample.same(call.sample):
            return -1
        if moment.is_dark and not self._at_one_time(moment):
            return 1
        if moment.run is not None and moment.position is not None:
            if moment.counted or not moment.run.repeats(moment.position):
                return -1
            moment.position += 1
            return 1
        return -1 if self._last_index < 0 or (self._in_turns and self._last_index == 0) else 1

    def _at_one_time(self, moment: Moment) -> bool:
        """The call was given the last one's timestep tensor, and that it was not rewritten is known."""
        last = self._moment
        return last is not None and last.mark.is_sure and last.mark.same(moment.mark.value)

    def _begin(self, call: Call, moment: Moment) -> Moment:
        """A run that its scheduler did not announce is placed by its timesteps alone."""
        last, run = self._moment, moment.run
        self.drop()
        self._sample = call.sample_structure
        if last is None or run is None or run is not last.run or run.holds(call.timestep):
            return moment
        self.clock.forget()
        return Moment(call.timestep)

    def _open_step(self, moment: Moment, advance: int) -> None:
        last = self._moment
        forced = last is not None and moment.run is None and last.timesteps == moment.timesteps
        if last is not None and moment.position is None and not (moment.is_dark or self._direction):
            self._direction = direction(last.timesteps, moment.timesteps)
            # The first rise may be a falling run that follows a lone call; the second time it is known for what it is.
            forced = forced or (self._direction > 0 and not self._rises)
            self._rises = self._direction > 0
        forced = forced or (self._in_turns and self._index == 0)
        self._last_index, self._index = self._index, self._index + (advance if last is not None else 1)
        self._moment = moment
        lanes, run = self.lanes, moment.run
        lanes.forget_before(self._last_full)
        self._time = Step(
            self._index,
            timesteps=lambda: moment.timesteps,
            before=(lambda: last.timesteps) if last is not None else None,
            direction=lambda: run.direction if run is not None else self._direction,
            count=None if run is None else len(run.timesteps),
            position=moment.position,
            scheduler=None if run is None else type(run.scheduler).__name__,
            noisy=run is not None and run.is_noisy,
            on_host=on_host(moment.timestep),
            since=self._index - self._last_full,
            drift=lambda: lanes.drift(self._last_index),
        )
        self._full = last is None or forced or self.policy.full(self._time)
        if self._full:
            self._last_full = self._index
