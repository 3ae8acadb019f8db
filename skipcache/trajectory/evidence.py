"""What was seen of the conditioning of calls: which leaves stay, and which change on every call."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Evidence:
    """What was seen of the conditioning of calls of one structure, by index of the leaf.

    Attributes:
        proven: leaves that some lane had again at a later step.
        missed: leaves that no lane had, with the step at which that was first seen.
        volatile: leaves that no lane had at two steps: they change on every call.
    """

    proven: set[int] = field(default_factory=set)
    missed: dict[int, int] = field(default_factory=dict)
    volatile: set[int] = field(default_factory=set)

    def with_misses(self, missed: set[int], last_step: int) -> Evidence:
        """What is known after a call whose leaves `missed` were no lane's."""
        first, volatile = dict(self.missed), set(self.volatile)
        for i in missed - self.proven:
            if first.setdefault(i, last_step) != last_step:
                volatile.add(i)
        return Evidence(self.proven, first, volatile)

    def with_proven(self, leaves: set[int]) -> Evidence:
        return Evidence(self.proven | leaves, self.missed, self.volatile)
