"""Calls -> (trajectory, step, lane), with no step count and no reset by the user; owns the cached features.

A trajectory is one sampling run. It begins at the first call, at a scheduler's `set_timesteps`, at a timestep against
the direction of the run, and at a sample of another shape, dtype or device. In doubt a step is full: a wrong reuse is
a defect, a lost saving is not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from skipcache.blocks import Streams, on_host
from skipcache.policies import Policy, Step, reads_drift
from skipcache.predictors import Predictor
from skipcache.trajectory.call import Call
from skipcache.trajectory.clock import Clock, Instant
from skipcache.trajectory.direction import Direction
from skipcache.trajectory.lanes import Lane, Lanes
from skipcache.trajectory.places import Advance, Ahead, NewRun, OpenStep, Place, Repeat, Unknown, Visit
from skipcache.trajectory.processes import agreed


class Trajectory:
    """The run that one thread is in. `visit` places a call and decides, `record` keeps what a full step left."""

    def __init__(self, policy: Policy, predictor: Predictor, ignored: tuple[Tensor, ...] = ()) -> None:
        self.policy, self.predictor = policy, predictor
        self.clock = Clock(ignored)
        self.direction = Direction()
        self.drop()

    def drop(self) -> None:
        """Forget the run: the next call begins another one."""
        self.lanes = Lanes(follows=reads_drift(self.policy))
        self.direction.restart()
        self.at: OpenStep | None = None
        self._last_full = -1
        self._sample: Hashable = None
        self._in_turns = False  # another run seems to be called in turns with this one

    def visit(self, call: Call, schedulers: Sequence[Any] = ()) -> Visit | None:
        """Where `call` stands; None for one that repeats another call of its step, and must run plain.

        The lane is entered, so that another call of it is known as another step.
        """
        last = self.at
        place = self._place(call, self.clock.read(call, list(schedulers), last.instant if last else None))
        if isinstance(place.advance, Repeat):
            return None
        if isinstance(place.advance, NewRun):
            place = self._begin(call, place)
        assert isinstance(place.advance, Ahead)
        opens = place.advance.steps > 0
        at = self._open_step(place.instant, place.advance.steps) if opens or self.at is None else self.at
        full = self._decide(call, at, place.lane, opens)
        lane = place.lane or self.lanes.add(call)
        lane.enter(call, at.index)
        return Visit(lane, at, full, opens)

    def record(self, visit: Visit, H: Streams | None, D: Streams) -> None:
        """Keep what the predictor needs of a full step."""
        visit.lane.cache.record(visit.step, H, D, self.predictor)

    @property
    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        return self.lanes.tensors

    # Full or cached: the one place where it is decided. An engine may still have to run in full, and says so.

    def _decide(self, call: Call, at: OpenStep, lane: Lane | None, opens: bool) -> bool:
        """True where all blocks must run: by the step, for a lane without features, or because a process says so."""
        full = at.full or lane is None or lane.cache.last_full < self._last_full
        if getattr(self.policy, "agree", False) and agreed(full, call.sample.device) and not full:
            full = True
            if opens:
                at.full, self._last_full = True, at.index
        return full

    def _open_step(self, instant: Instant, steps: int) -> OpenStep:
        last = self.at
        forced = self._is_forced(instant, last)
        before = -1 if last is None else last.index
        index = before + (1 if last is None else steps)
        self.lanes.forget_before(self._last_full)
        view = self._view(instant, last, index)
        full = forced or self.policy.full(view)
        self.at = OpenStep(index, before, instant, view, full)
        self._last_full = index if full else self._last_full
        return self.at

    def _is_forced(self, instant: Instant, last: OpenStep | None) -> bool:
        """The step is full whatever the policy says: it is the first, or where it stands is in doubt."""
        if last is None:
            return True
        forced = instant.run is None and last.instant.timesteps == instant.timesteps
        if instant.position is None and not instant.is_dark and not self.direction.sense:
            forced = self.direction.learn(last.instant.timesteps, instant.timesteps) or forced
        return forced or (self._in_turns and last.index == 0)

    def _view(self, instant: Instant, last: OpenStep | None, index: int) -> Step:
        lanes, run, direction = self.lanes, instant.run, self.direction
        return Step(
            index,
            timesteps=lambda: instant.timesteps,
            before=None if last is None else lambda: last.instant.timesteps,
            direction=lambda: direction.sense if run is None else run.direction,
            count=None if run is None else len(run.timesteps),
            position=instant.position,
            scheduler=None if run is None else type(run.scheduler).__name__,
            noisy=run is not None and run.is_noisy,
            on_host=on_host(instant.timestep),
            since=index - self._last_full,
            drift=lambda: lanes.drift(-1 if last is None else last.index),
        )

    # Placing a call

    def _place(self, call: Call, instant: Instant) -> Place:
        """The lane of `call`, and how far it is from the last call."""
        last = self.at
        if last is None or instant.run is not last.instant.run or call.sample_structure != self._sample:
            return Place(None, NewRun(), instant)
        advance = self._ahead(instant, last.instant)
        if isinstance(advance, NewRun):
            return Place(None, advance, instant)
        same_step = isinstance(advance, Unknown) or advance.steps == 0
        at, before = (last.index, last.before) if same_step else (last.index + 1, last.index)
        repeated = same_step and any(_repeats(lane, call) for lane in self.lanes.all if lane.step == last.index)
        if repeated and isinstance(advance, Ahead):
            return Place(None, Repeat(), instant)
        lane = self.lanes.take(call, at, before)
        if isinstance(advance, Unknown):
            advance = Ahead(0) if lane is not None else self._ahead(instant, last.instant, read=True)
            assert not isinstance(advance, Unknown)
        if advance == Ahead(0) and lane is not None and lane.step == last.index:
            return self._again(call, lane, instant, last)
        if instant.run is None and advance == Ahead(1) and not self.lanes.know(call.structure):
            return Place(None, NewRun(), instant)
        return Place(lane, advance, instant)

    def _ahead(self, instant: Instant, last: Instant, read: bool = False) -> Advance:
        """How far `instant` is from `last`. `read`: look at the device where nothing else tells."""
        if instant.position is not None:
            turns = instant.directions_from(last)
            if turns is not None and self.direction.contradicts(*turns):
                return NewRun()
            # A scheduler's step_index is None until its first step, so that a position then is one step on.
            steps = 1 if last.position is None else instant.position - last.position
            return Ahead(steps) if steps >= 0 else NewRun()
        if instant.is_dark and not read:
            return Ahead(0) if last.mark.same(instant.mark.value) else Unknown()
        if instant.timesteps == last.timesteps:
            return Ahead(0)
        return NewRun() if self.direction.turns_back(last.timesteps, instant.timesteps) else Ahead(1)

    def _again(self, call: Call, lane: Lane, instant: Instant, last: OpenStep) -> Place:
        """A second call of `lane` at one time.

        Another sample is the next step where the scheduler's timesteps repeat, or may repeat. Else
        it is another run, perhaps called in turns with this one (tiles of one image); then neither may reuse anything.
        """
        on, new = Place(lane, Ahead(1), instant), Place(lane, NewRun(), instant)
        if lane.sample is None or lane.sample.same(call.sample):
            return new
        if instant.is_dark and not (last.instant.mark.is_sure and last.instant.mark.same(instant.mark.value)):
            return on
        if instant.run is not None and instant.position is not None:
            if instant.counted or not instant.run.repeats(instant.position):
                return new
            return Place(lane, Ahead(1), instant.next())
        return new if last.before < 0 or (self._in_turns and last.before == 0) else on

    def _begin(self, call: Call, place: Place) -> Place:
        """A new trajectory. A run that its scheduler did not announce is placed by its timesteps alone."""
        instant, lane, last = place.instant, place.lane, self.at
        in_turns = lane is not None and lane.sample is not None and not lane.sample.same(call.sample)
        self.drop()
        self._sample, self._in_turns = call.sample_structure, in_turns
        run = instant.run
        if last is not None and run is not None and run is last.instant.run and not run.holds(call.timestep):
            self.clock.forget()
            instant = Instant.of(call.timestep)
        return Place(None, Ahead(1), instant)


def _repeats(lane: Lane, call: Call) -> bool:
    """The call has the lane's sample and conditioning: the same ones, or equal ones where they can be read."""
    if (lane.context, lane.structure) != (call.context, call.structure) or lane.sample is None:
        return False
    leaves = range(len(call.conditioning))
    return lane.sample.same_or_equal(call.sample) and not lane.misses(call, leaves, by_value=on_host(call.sample))
