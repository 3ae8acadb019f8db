"""What was seen of the conditioning of calls: which leaves stay, and which change on every call."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

MAX_STRUCTURES = 16


@dataclass(eq=False)
class Evidence:
    """What was seen of the conditioning of calls of one structure, by index of the leaf.

    Attributes:
        proven: leaves that some lane had again at a later step.
        missed: leaves that no lane had, with the step before the one at which that was first seen; -1: in another run.
        volatile: leaves that no lane had at two steps: they change on every call.
    """

    proven: set[int] = field(default_factory=set)
    missed: dict[int, int] = field(default_factory=dict)
    volatile: set[int] = field(default_factory=set)

    def with_misses(self, missed: set[int], last_step: int, moving: Collection[int] = ()) -> Evidence:
        """What is known after a call whose leaves `missed` were no lane's; the `moving` ones change by their nature."""
        first, volatile = dict(self.missed), set(self.volatile)
        for i in missed - self.proven:
            if first.setdefault(i, last_step) != last_step or i in moving:
                volatile.add(i)
        return Evidence(self.proven, first, volatile)

    def with_proven(self, leaves: set[int]) -> Evidence:
        return Evidence(self.proven | leaves, self.missed, self.volatile)


class Habits:
    """What changed on every call in earlier runs: in the next one the first miss of such a leaf counts for two."""

    def __init__(self) -> None:
        self._volatile: dict[Hashable, frozenset[int]] = {}

    def of(self, structure: Hashable) -> Evidence:
        """What is known at the first call of a run."""
        return Evidence(missed=dict.fromkeys(self._volatile.get(structure, ()), -1))

    def note(self, structure: Hashable, evidence: Evidence) -> None:
        if evidence.volatile and self._volatile.get(structure) != evidence.volatile:
            self._volatile.pop(structure, None)
            self._volatile[structure] = frozenset(evidence.volatile)
            while len(self._volatile) > MAX_STRUCTURES:
                del self._volatile[next(iter(self._volatile))]
