"""Lanes: several calls at one step, told apart by their conditioning; each has its own cached features.

A call takes the lane whose conditioning it shares: the same memory, unwritten since, or else the same values in a lane
that has not been called at this step. Conditioning that never stays (a ControlNet's residuals) is found out at the
second step that it misses; from then on the rest decides, and among equals the order of calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from skipcache.blocks.streams import Streams
from skipcache.predictors.base import Prediction, Predictor
from skipcache.trajectory.call import Call, Mark
from skipcache.trajectory.drift import Drift, farthest

MAX_LANES = 8


@dataclass(eq=False)
class Lane:
    """Its conditioning and sample at the last call, and what its full steps left behind, the latest first."""

    context: str | None
    structure: Hashable
    conditioning: tuple[Mark, ...]
    step: int = -1
    sample: Mark | None = None
    full_steps: list[int] = field(default_factory=list)
    kept: Sequence[Streams] = ()
    residual: bool = False
    shapes: list[tuple[int, ...]] | None = None  # of the features that `kept` was made of
    outputs: list[tuple[int, Tensor]] = field(default_factory=list)
    drift: Drift | None = None  # where the policy reads it

    @classmethod
    def of(cls, call: Call, follows: bool = False) -> Lane:
        drift = Drift() if follows else None
        return cls(call.context, call.structure, tuple(map(Mark.of, call.conditioning)), drift=drift)

    def enter(self, call: Call, step: int) -> None:
        self.conditioning = tuple(map(Mark.of, call.conditioning))
        self.sample, self.step = Mark.of(call.sample), step

    def record(self, step: int, H: Streams | None, D: Streams, predictor: Predictor) -> None:
        """Keep what `predictor` needs of a full step: R = D - H, or D where it asks for that or R cannot be formed."""
        residual = predictor.residual and H is not None and _shapes(H) == _shapes(D)
        feature = tuple(d - h for h, d in zip(H, D)) if residual and H is not None else D
        before = self.residual, self.shapes
        self.residual, self.shapes = residual, _shapes(feature)
        if before != (self.residual, self.shapes):
            self.forget()
        self.full_steps = [step, *self.full_steps][: predictor.depth]
        self.kept = predictor.remember(feature, self.kept, self.full_steps)
        if self.drift is not None:
            self.drift.follow(H, full=True)

    def predict(self, step: int, predictor: Predictor, slope: float = 1.0) -> Prediction:
        """`slope`: what the predictor's weights are multiplied by."""
        weights = tuple(w * slope for w in predictor.weights(step, self.full_steps))
        observe = None if self.drift is None else self.drift.follow
        return Prediction(predictor, self.kept, weights, self.residual, observe)

    def remember(self, step: int, output: Tensor) -> None:
        """Keep the model's own outputs of this step and of the one before."""
        self.outputs = [(step, output), *(kept for kept in self.outputs if kept[0] == step - 1)]

    def outputs_before(self, step: int) -> list[Tensor]:
        """Of the steps before `step`, without a gap, the latest first."""
        return [x for i, (at, x) in enumerate(self.outputs) if at == step - 1 - i]

    def forget(self) -> None:
        self.full_steps, self.kept = [], ()
        self.drift = None if self.drift is None else Drift()

    def misses(self, call: Call, leaves: Iterable[int], by_value: bool = False) -> set[int]:
        """The leaves of `call`'s conditioning, out of `leaves`, that are not this lane's."""
        marks, values = self.conditioning, call.conditioning
        return {i for i in leaves if not (marks[i].same(values[i]) or (by_value and marks[i].equal(values[i])))}


@dataclass(eq=False)
class Evidence:
    """Of calls of one structure: leaves that were seen to stay, and leaves that at two steps were no lane's."""

    proven: set[int] = field(default_factory=set)
    missed: dict[int, int] = field(default_factory=dict)
    volatile: set[int] = field(default_factory=set)

    def gather(self, missed: set[int], last_step: int) -> bool:
        """True where a leaf turns out to be volatile."""
        before = len(self.volatile)
        for i in missed - self.proven:
            if self.missed.setdefault(i, last_step) != last_step:
                self.volatile.add(i)
        return len(self.volatile) > before


class Lanes:
    """The lanes of one trajectory."""

    def __init__(self, follows: bool = False) -> None:
        self.all: list[Lane] = []
        self._follows = follows
        self._crowded = False
        self._evidence: dict[Hashable, Evidence] = {}

    def find(self, call: Call, step: int, last_step: int) -> Lane | None:
        """The lane of `call` at `step`, or None for an unseen one.

        A lane that is at `step` has been called there; `last_step` is the one before, -1 at the first step.
        """
        evidence = self._evidence.setdefault(call.structure, Evidence())
        known = [lane for lane in self.all if lane.context == call.context and lane.structure == call.structure]
        leaves = set(range(len(call.conditioning)))
        for lane in known:
            if not lane.misses(call, leaves):
                evidence.proven |= leaves if last_step >= 0 else set()
                return lane
        waiting = [lane for lane in known if lane.step != step]
        if self._crowded:
            return self._by_value(call, waiting, Evidence())
        if call.context is not None and waiting and not waiting[0].misses(call, evidence.proven, by_value=True):
            return waiting[0]
        return self._by_value(call, waiting, evidence) or self._without_volatile(call, waiting, evidence, last_step)

    def _by_value(self, call: Call, waiting: list[Lane], evidence: Evidence) -> Lane | None:
        steady = set(range(len(call.conditioning))) - evidence.volatile
        for lane in waiting if steady else ():
            if not lane.misses(call, steady, by_value=True):
                evidence.proven |= steady
                return lane
        return None

    def _without_volatile(self, call: Call, waiting: list[Lane], evidence: Evidence, last_step: int) -> Lane | None:
        leaves = set(range(len(call.conditioning)))
        if last_step >= 0 and not waiting and evidence.volatile == leaves:
            self._distrust(call)
        if last_step < 0 or not waiting:
            return None
        missed = set.intersection(*(lane.misses(call, leaves - evidence.volatile, by_value=True) for lane in waiting))
        found_out = evidence.gather(missed, last_step)
        lagging = [lane for lane in waiting if lane.step < last_step]
        recent = [lane for lane in waiting if lane.step == last_step]
        if evidence.volatile:
            self.all = [lane for lane in self.all if lane not in lagging]
        if evidence.volatile != leaves:
            return self._by_value(call, recent, evidence) if found_out else None
        # The order of calls is all that is left. Where their number has changed it says nothing: one full step for all.
        for lane in recent if lagging and not found_out else ():
            lane.forget()
        return recent[0] if recent else None

    def _distrust(self, call: Call) -> None:
        """One call more than there were lanes: any of them may be the new one, and have been given another's lane."""
        for lane in self.all:
            if lane.context == call.context and lane.structure == call.structure and lane.full_steps[:1] < [lane.step]:
                lane.forget()

    def know(self, structure: Hashable) -> bool:
        return any(lane.structure == structure for lane in self.all)

    def add(self, call: Call) -> Lane:
        """A new lane. Of more than eight the one that was called longest ago goes.

        Where a step has more than eight calls their order tells no lane from now on: some of the lanes are gone.
        """
        lane = Lane.of(call, self._follows)
        if len(self.all) == MAX_LANES:
            steps = [other.step for other in self.all]
            self._crowded = self._crowded or min(steps) == max(steps)
            del self.all[steps.index(min(steps))]
        self.all.append(lane)
        return lane

    def forget_before(self, last_full: int) -> None:
        """Free what lanes kept that were not called at the last full step: it is too old to be reused."""
        for lane in self.all:
            if lane.full_steps and lane.full_steps[0] < last_full:
                lane.forget()

    def drift(self, last_step: int) -> float:
        """How far H is expected to have moved at the step to come, in the lane where it moves most."""
        return farthest(lane.drift for lane in self.all if lane.step == last_step and lane.drift is not None)

    @property
    def tensors(self) -> list[Tensor]:
        kept = [x for lane in self.all for feature in lane.kept for x in feature]
        kept += [x for lane in self.all for _, x in lane.outputs]
        return kept + [x for lane in self.all if lane.drift is not None for x in lane.drift.H or ()]


def _shapes(streams: Streams) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in streams]
