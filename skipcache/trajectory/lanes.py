"""Lanes: several calls at one step, told apart by their conditioning. Each has its own cached features.

A call takes the lane whose conditioning it shares: the same memory, not written to since, or else equal values in a
lane that was not called at this step yet. The model's state must be the same, and the sample must go on from the lane's
last one, where it can be read: equal conditioning alone is not identity. Conditioning that changes on every call (a
ControlNet's residuals) is found out at the second step at which no lane has it. From then on the rest decides, and
where nothing is left, the order of calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from skipcache.trajectory.cache import FeatureCache
from skipcache.trajectory.call import Call
from skipcache.trajectory.continuity import FIRST, RECENT, bound
from skipcache.trajectory.drift import farthest
from skipcache.trajectory.mark import Mark, angle

MAX_LANES = 8


@dataclass(eq=False)
class Lane:
    """Who is called: the model's state, the conditioning and the sample at the last call, and the step of it.

    `cache` is what it holds. `seen` is the sample as it was, where samples are evidence; `angles` are those by which it
    turned at the last steps.
    """

    context: str | None
    structure: Hashable
    state: Hashable
    conditioning: tuple[Mark, ...]
    cache: FeatureCache
    step: int = -1
    sample: Mark | None = None
    seen: tuple[Tensor, ...] | None = None
    angles: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, call: Call, follows: bool = False) -> Lane:
        marks = tuple(map(Mark.of, call.conditioning))
        return cls(call.context, call.structure, call.state, marks, FeatureCache(follows))

    def enter(self, call: Call, step: int, evidence: bool) -> None:
        """The lane is called at `step`. `evidence`: samples may be read, and tell runs apart."""
        turned = self.turned(call) if evidence else None
        if turned is not None:
            self.angles = [*self.angles, turned][-RECENT:]
        self.conditioning = tuple(map(Mark.of, call.conditioning))
        self.sample, self.step = Mark.of(call.sample), step
        self.seen = tuple(x.detach().clone() for x in call.samples) if evidence else None

    def turned(self, call: Call) -> float | None:
        """The angle, in radians, from the lane's last sample to the call's; None where it is not known."""
        if self.seen is None or [x.shape for x in self.seen] != [x.shape for x in call.samples]:
            return None
        return max(float(angle(before, after)) for before, after in zip(self.seen, call.samples))

    def moved(self, call: Call, leaf: int) -> float:
        """The angle by which a leaf of the conditioning has turned; more than any for what has none."""
        before, after = self.conditioning[leaf].as_it_was, call.conditioning[leaf]
        if before is None or not isinstance(after, Tensor) or not after.is_floating_point():
            return 4.0
        return float(angle(before, after)) if before.shape == after.shape else 4.0

    def goes_on(self, call: Call) -> bool:
        """The call's sample may be the lane's next one; true where nothing is known of it."""
        turned = self.turned(call)
        return turned is None or turned <= bound(self.angles)

    def misses(self, call: Call, leaves: Iterable[int], by_value: bool = False) -> set[int]:
        """Those of `leaves`, indices into the call's conditioning, that are not this lane's."""
        marks, values = self.conditioning, call.conditioning
        return {i for i in leaves if not (marks[i].same(values[i]) or (by_value and marks[i].equal(values[i])))}


@dataclass(eq=False)
class Evidence:
    """What was seen of the conditioning of calls of one structure, by index of the leaf.

    Attributes:
        proven: leaves that some lane had again at a later step.
        missed: leaves that no lane had, but that had moved only a little, with the step at which that was first seen.
        volatile: leaves of which that is so at two steps: they change on every call. Another text moves far.
    """

    proven: set[int] = field(default_factory=set)
    missed: dict[int, int] = field(default_factory=dict)
    volatile: set[int] = field(default_factory=set)

    def with_misses(self, missed: set[int], last_step: int) -> Evidence:
        """What is known after a call whose leaves `missed` had moved a little."""
        first, volatile = dict(self.missed), set(self.volatile)
        for i in missed - self.proven:
            if first.setdefault(i, last_step) != last_step:
                volatile.add(i)
        return Evidence(self.proven, first, volatile)

    def with_proven(self, leaves: set[int]) -> Evidence:
        return Evidence(self.proven | leaves, self.missed, self.volatile)


@dataclass(frozen=True, eq=False)
class Found:
    """The answer to `Lanes.find`: the lane, None for an unseen one, and what `Lanes.settle` is to change.

    Attributes:
        evidence: of the call's structure, as it is after this call.
        gone: lanes that are too far behind to be any call's.
        untrusted: lanes that may have been taken for another one; their features are dropped.
    """

    lane: Lane | None
    evidence: Evidence
    gone: tuple[Lane, ...] = ()
    untrusted: tuple[Lane, ...] = ()


class Lanes:
    """The lanes of one trajectory."""

    def __init__(self, follows: bool = False) -> None:
        self.all: list[Lane] = []
        self._follows = follows
        self._crowded = False
        self._evidence: dict[Hashable, Evidence] = {}

    def take(self, call: Call, step: int, last_step: int) -> Lane | None:
        """The lane of `call` at `step`, or None for an unseen one; what the call shows is remembered."""
        return self.settle(call, self.find(call, step, last_step))

    def settle(self, call: Call, found: Found) -> Lane | None:
        self._evidence[call.structure] = found.evidence
        if found.gone:
            self.all = [lane for lane in self.all if lane not in found.gone]
        for lane in found.untrusted:
            lane.cache.forget()
        return found.lane

    def find(self, call: Call, step: int, last_step: int) -> Found:
        """Which lane `call` is at `step`, changing nothing.

        A lane that is at `step` was called there; `last_step` is the one before, -1 at the first step.
        """
        evidence = self._evidence.get(call.structure) or Evidence()
        known = self._like(call)
        leaves = set(range(len(call.conditioning)))
        waiting = [lane for lane in known if lane.step != step]
        proven = evidence.with_proven(leaves if last_step >= 0 else set())
        same = [lane for lane in waiting if not lane.misses(call, leaves)]
        nearest = _nearest(call, same)
        if nearest is not None:
            return Found(nearest, proven)
        called = [lane for lane in known if lane.step == step and not lane.misses(call, leaves)]
        if called:
            return Found(_nearest(call, called) or called[0], proven)
        if same:
            return Found(None, evidence)
        if self._crowded:
            return Found(_nearest(call, _by_value(call, waiting, Evidence())), evidence)
        equal = _by_value(call, waiting, evidence)
        if equal:
            nearest = _nearest(call, equal)
            return Found(nearest, evidence if nearest is None else evidence.with_proven(leaves - evidence.volatile))
        return self._without_volatile(call, waiting, evidence, last_step)

    def _without_volatile(self, call: Call, waiting: list[Lane], evidence: Evidence, last_step: int) -> Found:
        """No lane has this conditioning: it is new, or some of its leaves change on every call."""
        leaves = set(range(len(call.conditioning)))
        if last_step < 0:
            return Found(None, evidence)
        if not waiting:
            # One call more than there were lanes: any of them may be the new one, and have been given another's lane.
            doubtful = self._behind_nothing(call) if evidence.volatile == leaves else ()
            return Found(None, evidence, untrusted=doubtful)
        missed = set.intersection(*(lane.misses(call, leaves - evidence.volatile, by_value=True) for lane in waiting))
        little = {i for i in missed if min(lane.moved(call, i) for lane in waiting) <= FIRST}
        after = evidence.with_misses(little, last_step)
        found_out = len(after.volatile) > len(evidence.volatile)
        lagging = tuple(lane for lane in waiting if lane.step < last_step)
        recent = [lane for lane in waiting if lane.step == last_step]
        gone = lagging if after.volatile else ()
        if after.volatile != leaves:
            lane = _nearest(call, _by_value(call, recent, after)) if found_out else None
            known = after if lane is None else after.with_proven(leaves - after.volatile)
            return Found(lane, known, gone)
        # The order of calls is all that is left. Where their number has changed it says nothing: one full step for all.
        doubtful = tuple(recent) if lagging and not found_out else ()
        return Found(recent[0] if recent and recent[0].goes_on(call) else None, after, gone, doubtful)

    def _like(self, call: Call) -> list[Lane]:
        """The lanes of the same context, structure and state of the model."""
        mine = (call.context, call.structure, call.state)
        return [lane for lane in self.all if (lane.context, lane.structure, lane.state) == mine]

    def _behind_nothing(self, call: Call) -> tuple[Lane, ...]:
        """The lanes like `call` whose last call was no recorded full step."""
        return tuple(lane for lane in self._like(call) if lane.cache.last_full < lane.step)

    def know(self, structure: Hashable) -> bool:
        return any(lane.structure == structure for lane in self.all)

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


def _by_value(call: Call, waiting: list[Lane], evidence: Evidence) -> list[Lane]:
    """The lanes that have equal values of all leaves that are not volatile."""
    steady = set(range(len(call.conditioning))) - evidence.volatile
    return [lane for lane in waiting if not lane.misses(call, steady, by_value=True)] if steady else []


def _nearest(call: Call, lanes: list[Lane]) -> Lane | None:
    """Of lanes with the call's conditioning, the one whose sample goes on here; the first where none is known."""
    turns = [(lane.turned(call), i) for i, lane in enumerate(lanes)]
    known = [(turned, i) for turned, i in turns if turned is not None and turned <= bound(lanes[i].angles)]
    unknown = [lane for lane, (turned, _) in zip(lanes, turns) if turned is None]
    return lanes[min(known)[1]] if known else next(iter(unknown), None)
