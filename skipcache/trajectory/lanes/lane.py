"""One lane: who was called last, and whether a call's conditioning is that one's, or near it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipcache.blocks import memory_of, on_host, tensors_of
from skipcache.trajectory.cache import FeatureCache
from skipcache.trajectory.call import Call
from skipcache.trajectory.mark import Mark, angle
from skipcache.trajectory.sample import Seen

LITTLE = 0.8  # radians; two texts are nearly orthogonal, as two noises are


@dataclass(eq=False)
class Lane:
    """Who is called: the model's state, the conditioning and the sample at the last call, and the step of it.

    `cache` is what it holds. `seen`: what its next sample may go on from, where samples are read. `others`: the same of
    leaves of the conditioning that are samples too (LTX-2's sound), since the model has an output for them. `image`:
    lanes that were given one sample at their last common step have one. `began`: the step of its first call.
    `repeated_in`: the state in which a pass last repeated its call.
    """

    context: str | None
    structure: Hashable
    samples: tuple[Hashable, ...]
    state: Hashable
    conditioning: tuple[Mark, ...]
    cache: FeatureCache
    step: int = -1
    sample: Mark | None = None
    seen: Seen | None = None
    others: dict[int, Seen] = field(default_factory=dict)
    image: object = field(default_factory=object)
    began: int = -1
    repeated_in: Hashable = None

    @classmethod
    def of(cls, call: Call, follows: bool = False) -> Lane:
        return cls(call.context, call.structure, call.sample_structure, call.state, call.marks, FeatureCache(follows))

    def enter(self, call: Call, step: int, seen: Seen | None = None) -> None:
        """The lane is called at `step`."""
        self.began = step if self.began < 0 else self.began
        self.conditioning, self.sample, self.step, self.seen = call.marks, call.sample_mark, step, seen

    def note(self, output: Any) -> None:
        """The model gave `output` for the last call, and the sampler goes on with it."""
        found = list(tensors_of(output))
        if self.seen is not None:
            self.seen.note(found)
        answers = [x for x in found if x.is_floating_point() and x.ndim > 1][len(self.samples) :]
        before, self.others = self.others, {}
        for i, mark in enumerate(self.conditioning if answers else ()):
            answer = next((x for x in answers if isinstance(mark.value, Tensor) and x.shape == mark.value.shape), None)
            if answer is not None and mark.value.is_floating_point():
                self.others[i] = Seen([mark.value], before.get(i))
                self.others[i].note(answer)

    def goes_on(self, call: Call, leaf: int) -> bool:
        """This leaf is a sample of its own, and goes on from the one at the lane's last call. On a device: one look."""
        seen, value = self.others.get(leaf), call.conditioning[leaf]
        return seen is not None and seen.fits([value]) and seen.tells and seen.turn([value]).fits([])

    def is_near(self, call: Call, leaves: Iterable[int]) -> bool:
        """Those of these leaves that are tensors have turned by a little only since the lane's last call, or go on as
        samples do.

        On a device this is one look at all of them.
        """
        angles: list[Tensor] = []
        for i in leaves:
            before, after = self.conditioning[i].as_it_was, call.conditioning[i]
            if not isinstance(after, Tensor) or self.goes_on(call, i):
                continue
            if before is None or after.layout is not torch.strided:
                return False
            angles.append(angle(before, after))
        return not angles or max(torch.stack([x.to(angles[0].device) for x in angles]).tolist()) <= LITTLE

    def is_moved(self, call: Call) -> bool:
        """The call's sample lies elsewhere in its memory than the lane's last one did, as a window that moves does."""
        if self.sample is None or memory_of(call.sample) is None or memory_of(self.sample.value) is None:
            return False
        return bool(self.sample.value.storage_offset() != call.sample.storage_offset())

    def is_repeated_by(self, call: Call) -> bool:
        """The call has the lane's sample and conditioning: the same ones, or equal ones where they can be read."""
        if (self.context, self.structure) != (call.context, call.structure) or self.sample is None:
            return False
        leaves = range(len(call.conditioning))
        return self.sample.same_or_equal(call.sample_mark) and not self.misses(call, leaves, on_host(call.sample))

    def misses(self, call: Call, leaves: Iterable[int], by_value: bool = False) -> set[int]:
        """Those of `leaves`, indices into the call's conditioning, that are not this lane's."""
        before, now = self.conditioning, call.marks
        return {i for i in leaves if not (before[i].same(now[i]) or (by_value and before[i].equal(now[i])))}


def telling(call: Call) -> set[int]:
    """The leaves of the conditioning that may tell who is called: not those that are the timestep once more (LTX-2)."""
    time = call.timestep
    if not isinstance(time, Tensor):
        return set(range(len(call.conditioning)))
    memory, offset = memory_of(time), time.storage_offset()

    def is_time(leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and memory_of(leaf) == memory and leaf.storage_offset() == offset

    return {i for i, leaf in enumerate(call.conditioning) if memory is None or not is_time(leaf)}


def decide(call: Call, leaves: Iterable[int]) -> bool:
    """These leaves tell lanes apart: there is a tensor among them. Plain values are shared by all lanes."""
    return any(isinstance(call.conditioning[i], Tensor) for i in leaves)
