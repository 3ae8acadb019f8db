"""One sampling run: its steps and lanes, and the cached features. `place` says how a call fits, `enter` takes it in.

A call fits only if all that can be known of it fits: the scheduler's run and position, or the timestep and the
direction; the conditioning; the sample; the model's state. In doubt it begins another run, whose first step is full: a
wrong reuse is a defect, a lost saving is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from skipcache.blocks import Streams, on_host
from skipcache.policies import Policy, reads_drift
from skipcache.predictors import Predictor, Total
from skipcache.trajectory.call import Call
from skipcache.trajectory.lanes import Found, Habits, Lane, Lanes
from skipcache.trajectory.places import Fits, NewRun, OpenStep, Place, Repeat, Visit, view_of
from skipcache.trajectory.span import Turn
from skipcache.trajectory.time import Direction, Instant, SchedulerRun, direction, same_run
from skipcache.trajectory.turns import Turns, reads


class Trajectory:
    """One run.

    Attributes:
        at: the step of the last call; None before the first.
        goes_on: it was called after another run had begun on its thread, or began at one time with that run.
        turns: by how much its samples turned, at the last steps where that was measured.
        named, said: the client's name for it, and the timesteps that it gave. Its samples are then no evidence.
        used: a count of calls that grows, as it was at the last call.
    """

    def __init__(
        self,
        policy: Policy,
        predictor: Predictor,
        begun: NewRun | None = None,
        said: SchedulerRun | None = None,
        named: str | None = None,
        habits: Habits | None = None,
    ) -> None:
        self.policy, self.predictor = policy, predictor
        self.lanes = Lanes(follows=reads_drift(policy), habits=habits)
        self.direction = Direction(0 if begun is None else begun.sense)
        self.at: OpenStep | None = None
        self.goes_on = False
        self.named, self.said = named, said
        self.used = 0
        self.turns = Turns(begun)
        self._in_turns = begun is not None and begun.in_turns  # another run seems to be called in turns with this one
        self._last_full = -1

    @property
    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        return self.lanes.tensors

    def doubt(self, begun: NewRun, run: SchedulerRun | None = None) -> None:
        """Another run has begun, of the scheduler's run `run`."""
        self._in_turns = self._in_turns or begun.in_turns
        self.turns.strict = self.turns.strict or (self.at is not None and same_run(run, self.at.instant.run))

    def release(self) -> None:
        """Drop the features, and go on knowing who is called: the next step is full."""
        for lane in self.lanes.all:
            lane.cache.forget()

    # How a call fits

    def place(self, call: Call, instant: Instant, since: Sequence[Instant] = ()) -> Place:
        """How `call` fits this run, at `instant`, whose position is not known yet. Nothing is changed.

        `since`: where other runs of the thread have come to since the last call of this one.
        """
        last = self.at
        if last is None:
            return NewRun()
        instant, before = instant.after(last.instant), last.instant
        if before.run is not None and before.counts and not same_run(instant.run, before.run):
            return NewRun()
        if instant.is_dark and not before.mark.same(instant.mark):
            instant = instant.after(before, read=True)
        if instant.run is None and not before.counts:
            before = before.alone  # a loop beside a pipeline, begun at a time that the pipeline's scheduler has too
        if not same_run(instant.run, before.run):
            return NewRun()
        steps = self._ahead(instant, before, since)
        if steps < 0 or (steps and not self.lanes.know_sample(call)):
            return NewRun()
        return self._fit(call, instant, last, steps)

    def _ahead(self, instant: Instant, last: Instant, since: Sequence[Instant]) -> int:
        """How many steps `instant` is after `last`; -1 for a turn back."""
        if instant.position is not None:
            turns = instant.directions_from(last)
            if turns is not None and not self.direction.fits(*turns):
                return -1
            if last.position is None and not instant.counted:
                last = last.after(None, read=True)
            # A scheduler's step_index is None until its first step, which is the run's own first one.
            return max(1, instant.position) if last.position is None else max(-1, instant.position - last.position)
        if last.mark.is_sure and last.mark.same(instant.mark):
            return 0
        if instant.timesteps == last.timesteps:
            return 0
        if self.direction.turns_back(last.timesteps, instant.timesteps):
            return -1
        # Windows that take turns are not called at each step: other runs show the times that were passed over.
        turn = direction(last.timesteps, instant.timesteps)
        times = {other.timesteps for other in since if other.run is None}
        passed = [t for t in times if direction(last.timesteps, t) == direction(t, instant.timesteps) == turn]
        return 1 + len(passed)

    def _fit(self, call: Call, instant: Instant, last: OpenStep, steps: int) -> Place:
        at, before = (last.index + 1, last.index) if steps else (last.index, last.before)
        repeated = None if steps else self.lanes.repeated_by(call, last.index)
        if repeated is not None:
            return Repeat(repeated, call.state)
        found = self.lanes.find(call, at, before)
        if steps == 0 and found.lane is None and (instant.repeats or instant.run is None or on_host(call.sample)):
            found = self.lanes.find_again(call, at, found)
        unseen = found.lane is None or found.lane.step < last.index
        if steps == 0 and unseen and self._evaluates_again(call, instant, last):
            return self._by_sample(call, self.lanes.find(call, at + 1, at), instant.next(), last, 1)
        if steps == 0 and not unseen:
            return self._again(call, found, instant, last)
        if instant.run is None and steps and not self.lanes.know_structure(call.structure):
            return NewRun()
        return self._by_sample(call, found, instant, last, steps)

    def _by_sample(self, call: Call, found: Found, instant: Instant, last: OpenStep, steps: int) -> Place:
        """The call, unless its sample belongs to another run."""
        if self.named is None and reads(call, instant, found):
            found = self.lanes.without_left(found, (last.index, last.before))
        turn = self._turn(call, found, instant)
        moved = found.lane is not None and found.lane.is_moved(call)
        if turn is not None and not self.turns.allow(call, turn, instant, last.instant, moved):
            # At one time another sample with another text is a lane (areas of one image), else it is another run.
            again = steps or found.lane is not None
            return self.turns.instead(call, turn) if again else Fits(instant, 0, found)
        known = instant.position is not None and (found.is_same or found.is_equal)
        sure = turn is not None or (known and not self._in_turns)
        return Fits(instant, steps, found, None if turn is None else turn.size, sure)

    def _evaluates_again(self, call: Call, instant: Instant, last: OpenStep) -> bool:
        """At one time, a sample that goes on from one of this step: the step's next evaluation, with another text."""
        if self.named is not None or not reads(call, instant) or not self.lanes.lead_to(call, last.index, last.before):
            return False
        return instant.run is None or instant.repeats

    def _again(self, call: Call, found: Found, instant: Instant, last: OpenStep) -> Place:
        """A second call of a lane at one time, with another sample: the step's next evaluation (Heun), or another run.

        Where the sample is not read it is the next step if the scheduler's timesteps repeat, or may repeat. Else it is
        another run, perhaps called in turns with this one (tiles of one image).
        """
        lane = found.lane
        assert lane is not None
        turn = self._turn(call, found, instant)
        new = NewRun(in_turns=turn is None)
        if turn is not None and lane.seen is not None and lane.seen.is_of(call.samples):
            return Repeat(lane, call.state)
        if lane.sample is None or lane.sample.same(call.sample_mark):
            return new
        if turn is not None and not self.turns.allow(call, turn, instant, last.instant):
            return NewRun(instead=last.before >= 0 or self.turns.strict)
        on = Fits(instant, 1, found, None if turn is None else turn.size, turn is not None)
        if instant.run is not None and instant.position is not None:
            if instant.counted or not instant.repeats:
                return new
            return Fits(instant.next(), 1, found, on.turn, on.is_sure)
        return new if last.before < 0 or self._in_turns else on

    def _turn(self, call: Call, found: Found, instant: Instant) -> Turn | None:
        """Of the call's sample, from its lane's last one, or from any lane's where it is a new lane; None: not read."""
        if self.named is not None or not reads(call, instant, found):
            return None
        assert self.at is not None
        seen = self.lanes.seen_by(found.lane, (self.at.index, self.at.before))
        turns = [x.turn(call.samples, call.sample_marks) for x in seen if x.tells and x.fits(call.samples)]
        return min(turns, key=lambda turn: turn.size) if turns else None

    # Taking a call in

    def enter(self, call: Call, place: Fits | NewRun, instant: Instant) -> Visit:
        """The call is one of this run; a `NewRun` is its first, at `instant`."""
        fits = place if isinstance(place, Fits) else None
        steps = 1 if fits is None else fits.steps
        instant = instant.after(None) if fits is None else fits.instant
        lane = None if fits is None else self.lanes.settle(call, fits.found)
        opens = steps > 0 or self.at is None
        at = self._open_step(instant, steps) if opens or self.at is None else self.at
        if fits is not None and fits.turn is not None and not self.lanes.saw(call, at.index):
            self.turns.note(call, fits.turn)
        full = self._decide(at, lane)
        lane = lane or self.lanes.add(call)
        lane.enter(
            call,
            at.index,
            None if self.named is not None else self.lanes.see(call, at.index, lane, reads(call, instant)),
        )
        return Visit(self, lane, at, full, opens, fits is None or fits.compared)

    def record(self, visit: Visit, H: Streams | None, D: Streams, total: Total | None = None) -> None:
        """Keep what the predictor needs of a full step. `total`: see `FeatureCache.record`."""
        visit.lane.cache.record(visit.step, H, D, self.predictor, total)

    # Full or cached: the one place where it is decided. An engine may still have to run in full, and says so.

    def _decide(self, at: OpenStep, lane: Lane | None) -> bool:
        """True where all blocks must run: by the step, or for a lane without features."""
        return at.full or lane is None or lane.cache.last_full < self._last_full or lane.cache.last_full < 0

    def insist(self, visit: Visit) -> Visit:
        """The same visit as a full one, since another process says so; with it all of a step that it opens."""
        if not visit.full and visit.opens_step:
            visit.at.full, self._last_full = True, visit.at.index
        return replace(visit, full=True)

    def _open_step(self, instant: Instant, steps: int) -> OpenStep:
        last = self.at
        forced = self._is_forced(instant, last)
        before = -1 if last is None else last.index
        index = before + (1 if last is None else steps)
        self.lanes.forget_before(self._last_full)
        looks: list[None] = []
        look = lambda: looks.append(None)  # noqa: E731
        view = view_of(instant, last, index, index - self._last_full, self.direction, self.lanes, look)
        full = forced or self.policy.full(view)
        self.at = OpenStep(index, before, instant, view, full, looked=bool(looks))
        self._last_full = index if full else self._last_full
        return self.at

    def _is_forced(self, instant: Instant, last: OpenStep | None) -> bool:
        """The step is full whatever the policy says: it is the first, or where it stands is in doubt."""
        if last is None:
            return True
        turns = instant.directions_from(last.instant)
        if turns is not None:
            self.direction.agree(*turns)
        if instant.position is None:
            self.direction.learn(last.instant.timesteps, instant.timesteps)
        one_time = instant.run is None and last.instant.timesteps == instant.timesteps
        return one_time or self._in_turns
