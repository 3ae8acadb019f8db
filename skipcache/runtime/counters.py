"""What is counted while sampling: what was done, after it was done."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise

from skipcache.trajectory import Visit

MAX_SIGNATURES = 64  # whose calls are counted apart; of more, the oldest do not count for the ideal speedup


@dataclass
class Counters:
    """Steps, calls and blocks; threads share it.

    `calls` counts calls by signature and by whether they were full; `reasons` and `engines` are ordered sets.
    """

    full_steps: int = 0
    cached_steps: int = 0
    blocks_run: int = 0
    blocks_saved: int = 0
    calls: Counter[tuple[Hashable, bool]] = field(default_factory=Counter)
    full_at: tuple[int, ...] = ()
    last_at: int = 0  # the last step of the last trajectory
    evictions: int = 0
    reasons: dict[str, None] = field(default_factory=dict)
    engines: dict[str, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, visit: Visit, signature: Hashable, full: bool, run: int, depth: int, first: bool) -> None:
        """A call was answered: it ran `run` of `depth` blocks. A step that had a full call is a full step.

        `first`: no call of its step was full before.
        """
        at = visit.at
        with self._lock:
            self.blocks_run += run
            self.blocks_saved += max(0, depth - run)  # a forward may run its blocks twice
            self._add(signature, full)
            if visit.opens_step:
                self.full_steps += full
                self.cached_steps += not full
                self.full_at = self.full_at if at.index else ()
                self.last_at = at.index
            elif full and first:
                self.full_steps += 1
                self.cached_steps -= 1
            if full and first:
                self.full_at = (*self.full_at, at.index)

    @property
    def largest_gap(self) -> int:
        """The most steps from one full step of the last trajectory to the next, or to its end."""
        return max((b - a for a, b in pairwise((*self.full_at, self.last_at + 1))), default=0)

    def repeat(self, signature: Hashable, depth: int) -> None:
        """A call ran plain beside another one of its step: it cost as much as a full one, and is no step."""
        with self._lock:
            self.blocks_run += depth
            self._add(signature, True)

    def evict(self, runs: int) -> None:
        with self._lock:
            self.evictions += runs

    def serve(self, engine: str) -> None:
        """`engine` has served a call."""
        with self._lock:
            self.engines[engine] = None

    def because(self, reason: str) -> None:
        """Note a reason for `report`, once."""
        with self._lock:
            self.reasons[reason] = None

    def _add(self, signature: Hashable, full: bool) -> None:
        self.calls[signature, full] += 1
        if len(self.calls) > MAX_SIGNATURES:
            del self.calls[next(iter(self.calls))]
