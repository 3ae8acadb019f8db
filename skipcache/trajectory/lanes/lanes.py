"""Lanes: several calls at one step, told apart by their conditioning. Each has its own cached features.

A call takes the lane whose conditioning it shares: the same memory, not written to since, or else equal values in a
lane that was not called at this step yet. The model's state must be the same: a pass through perturbed blocks has equal
conditioning too. Conditioning that changes on every call (a ControlNet's residuals) is found out at the second step at
which no lane has it, in later runs at the first. From then on the other tensors decide. Where none is left, the order
of calls does. Either way the conditioning must change a little only: another text on each step is another lane on each
step, beside a pooled one that stays too.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from torch import Tensor

from skipcache.trajectory.call import Call
from skipcache.trajectory.drift import farthest
from skipcache.trajectory.lanes.evidence import Evidence, Habits
from skipcache.trajectory.lanes.lane import Lane, decide, telling
from skipcache.trajectory.sample import Seen

MAX_LANES = 8


@dataclass(frozen=True, eq=False)
class Found:
    """The answer to `Lanes.find`: the lane, None for an unseen one, and what `Lanes.settle` is to change.

    Attributes:
        evidence: of the call's structure, as it is after this call.
        gone: lanes that are too far behind to be any call's.
        untrusted: lanes that may have been taken for another one; their features are dropped.
        is_same: all of its conditioning is the lane's own, the same memory.
        is_equal: it has equal values.
    """

    lane: Lane | None
    evidence: Evidence
    gone: tuple[Lane, ...] = ()
    untrusted: tuple[Lane, ...] = ()
    is_same: bool = False
    is_equal: bool = False


class Lanes:
    """The lanes of one trajectory."""

    def __init__(self, follows: bool = False, habits: Habits | None = None) -> None:
        self.all: list[Lane] = []
        self._follows = follows
        self._habits = Habits() if habits is None else habits
        self._crowded = False
        self._evidence: dict[Hashable, Evidence] = {}

    def take(self, call: Call, step: int, last_step: int) -> Lane | None:
        """The lane of `call` at `step`, or None for an unseen one; what the call shows is remembered."""
        return self.settle(call, self.find(call, step, last_step))

    def settle(self, call: Call, found: Found) -> Lane | None:
        self._evidence[call.structure] = found.evidence
        self._habits.note(call.structure, found.evidence)
        if found.gone:
            self.all = [lane for lane in self.all if lane not in found.gone]
        for lane in found.untrusted:
            lane.cache.forget()
        return found.lane

    def find(self, call: Call, step: int, last_step: int) -> Found:
        """Which lane `call` is at `step`, changing nothing.

        A lane that is at `step` was called there; `last_step` is the one before, -1 at the first step.
        """
        evidence, known, leaves = self._known(call), self._like(call), telling(call)
        proven = evidence.with_proven(leaves if last_step >= 0 else set())
        for lane in known:
            if not lane.misses(call, leaves):
                return Found(lane, proven, is_same=True)
        waiting = [lane for lane in known if lane.step != step]
        if self._crowded:
            return Found(_only(_alike(call, waiting, leaves)), evidence)
        equal = _only(_alike(call, waiting, leaves - evidence.volatile))
        if equal is not None and equal.is_near(call, evidence.volatile):
            return Found(equal, evidence.with_proven(leaves - evidence.volatile), is_equal=not evidence.volatile)
        return self._without_volatile(call, waiting, evidence, last_step)

    def find_again(self, call: Call, step: int, found: Found) -> Found:
        """`found`, or a lane that was called at `step` with equal conditioning, which clients may rebuild each time."""
        called, volatile = [lane for lane in self._like(call) if lane.step == step], self._known(call).volatile
        lane = _only(_alike(call, called, telling(call) - volatile))
        return replace(found, lane=lane, is_equal=True) if lane is not None and lane.is_near(call, volatile) else found

    def _known(self, call: Call) -> Evidence:
        return self._evidence.get(call.structure) or self._habits.of(call.structure)

    def _without_volatile(self, call: Call, waiting: list[Lane], evidence: Evidence, last_step: int) -> Found:
        """No lane has this conditioning: it is new, or some of its leaves change on every call."""
        leaves = telling(call)
        if last_step < 0:
            return Found(None, evidence)
        if not waiting:
            # One call more than there were lanes: any of them may be the new one, and have been given another's lane.
            doubtful = () if decide(call, leaves - evidence.volatile) else self._behind_nothing(call)
            return Found(None, evidence, untrusted=doubtful)
        missed = set.intersection(*(lane.misses(call, leaves - evidence.volatile, by_value=True) for lane in waiting))
        moving = {i for i in missed if any(lane.goes_on(call, i) for lane in waiting)}
        after = evidence.with_misses(missed, last_step, moving)
        found_out = len(after.volatile) > len(evidence.volatile)
        lagging = tuple(lane for lane in waiting if lane.step < last_step)
        recent = [lane for lane in waiting if lane.step == last_step]
        gone = lagging if after.volatile else ()
        if decide(call, leaves - after.volatile):
            alike = _alike(call, recent, leaves - after.volatile) if after.volatile else []
            lane = _only(alike)
            if lane is None or not found_out or not lane.is_near(call, after.volatile):
                return Found(None, after, (*gone, *alike))  # the call is a lane in their place
            return Found(lane, after.with_proven(leaves - after.volatile), gone)
        if not recent or recent[0].misses(call, leaves - after.volatile) or not _moves(recent[0], call, after.volatile):
            return Found(None, after, gone)
        # The order of calls is all that is left. Where their number has changed it says nothing: one full step for all.
        doubtful = tuple(recent) if lagging and not found_out else ()
        return Found(recent[0], after, gone, doubtful)

    def _like(self, call: Call) -> list[Lane]:
        """The lanes of the same context, structure and state of the model."""
        mine = (call.context, call.structure, call.state)
        return [lane for lane in self.all if (lane.context, lane.structure, lane.state) == mine]

    def _behind_nothing(self, call: Call) -> tuple[Lane, ...]:
        """The lanes like `call` whose last call was no recorded full step."""
        return tuple(lane for lane in self._like(call) if lane.cache.last_full < lane.step)

    def repeated_by(self, call: Call, step: int) -> Lane | None:
        """The lane whose call at `step` this one repeats: same sample, timestep and conditioning.

        Of two such passes in two states of the model that one is the lane whose state comes again: other weights, or
        layers to skip, may be put there for each call anew.
        """
        found = [lane for lane in self.all if lane.step == step and lane.is_repeated_by(call)]
        new = found and not any(self._comes_again(lane.state, step) for lane in found)
        return None if not found or (new and self._comes_again(call.state, step)) else found[0]

    def _comes_again(self, state: Hashable, step: int) -> bool:
        """The model was called in this state before `step`."""
        return any(lane.began < step and state in (lane.state, lane.repeated_in) for lane in self.all)

    def know_structure(self, structure: Hashable) -> bool:
        return any(lane.structure == structure for lane in self.all)

    def know_sample(self, call: Call) -> bool:
        """Some lane has samples of these shapes, dtypes and devices."""
        return any(lane.samples == call.sample_structure for lane in self.all)

    def saw(self, call: Call, step: int) -> bool:
        """A lane with samples of these shapes was called at `step`."""
        return any(lane.step == step and lane.samples == call.sample_structure for lane in self.all)

    def seen_by(self, lane: Lane | None, steps: tuple[int, ...]) -> list[Seen]:
        """What the next sample of `lane` may go on from. Where it was not called at one of `steps`: of its image."""
        lanes = self.all if lane is None else self._called_of(lane, steps)
        seen = {id(x.seen): x.seen for x in lanes if x.seen is not None and x.step in steps}
        return list(seen.values())

    def lead_to(self, call: Call, step: int, before: int) -> bool:
        """The samples at `step` lead to the call's, which is another one, as a sampler without noise makes it."""
        if any(lane.step == step and lane.sample and lane.sample.same(call.sample_mark) for lane in self.all):
            return False  # nothing need be read
        now, earlier = (self.seen_by(None, (at,)) for at in (step, before))
        return any(seen.leads_to(call.samples, earlier) for seen in now)

    def without_left(self, found: Found, steps: tuple[int, ...]) -> Found:
        """`found`, or a new lane in place of one of whose image none was called at `steps`: no sample speaks for it."""
        lane = found.lane
        if lane is None or self._called_of(lane, steps):
            return found
        return Found(None, found.evidence, (*found.gone, lane), found.untrusted)

    def _called_of(self, lane: Lane, steps: tuple[int, ...]) -> list[Lane]:
        if lane.step in steps:
            return [lane]
        return [other for other in self.all if other.image is lane.image and other.step in steps]

    def see(self, call: Call, step: int, lane: Lane, read: bool) -> Seen:
        """The sample of `call`, which another lane may have been given at this step. `read`: it may be compared."""
        for other in self.all:
            if other is lane or other.step != step or other.seen is None or other.sample is None:
                continue
            same = len(call.samples) == 1 and other.sample.same(call.sample_mark)
            if same or (read and other.seen.is_of(call.samples)):
                lane.image = other.image
                return other.seen
        if any(other is not lane and other.step == step and other.image is lane.image for other in self.all):
            lane.image = object()
        seen = Seen(call.samples, lane.seen)
        for other in self.all if read else ():
            if other is not lane and other.step == step and other.seen is not None:
                seen.join(other.seen)
        return seen

    def add(self, call: Call) -> Lane:
        """A new lane. Of more than eight, the one that was called longest ago goes.

        Where a step has more than eight calls, their order tells no lanes apart from now on: some lanes are gone.
        """
        lane = Lane.of(call, self._follows)
        if len(self.all) == MAX_LANES:
            steps = [other.step for other in self.all]
            self._crowded = self._crowded or min(steps) == max(steps)
            del self.all[steps.index(min(steps))]
        self.all.append(lane)
        return lane

    def forget_before(self, last_full: int) -> None:
        """Free the features of lanes that were not called at the last full step: they are too old to be reused."""
        for lane in self.all:
            if 0 <= lane.cache.last_full < last_full:
                lane.cache.forget()

    def drift(self, last_step: int) -> float:
        """How far H is expected to have moved at the coming step, in the lane where it moves most."""
        drifts = (lane.cache.drift for lane in self.all if lane.step == last_step)
        return farthest(drift for drift in drifts if drift is not None)

    @property
    def tensors(self) -> list[Tensor]:
        return [x for lane in self.all for x in lane.cache.tensors]


def _alike(call: Call, lanes: list[Lane], leaves: set[int]) -> list[Lane]:
    """The lanes that have equal values of these leaves, where there is a tensor among them."""
    return [lane for lane in lanes if not lane.misses(call, leaves, by_value=True)] if decide(call, leaves) else []


def _only(lanes: list[Lane]) -> Lane | None:
    return lanes[0] if len(lanes) == 1 else None


def _moves(lane: Lane, call: Call, leaves: set[int]) -> bool:
    """All of these leaves are tensors that have changed a little only."""
    return all(isinstance(call.conditioning[i], Tensor) for i in leaves) and lane.is_near(call, leaves)
