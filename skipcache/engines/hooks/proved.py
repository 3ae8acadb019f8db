"""What was proved of a model, by signature and by the model's state, and whether another proof is worth its cost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import replace

from skipcache.engines import Recent
from skipcache.engines.hooks.wiring import Wiring
from skipcache.trajectory import Call

MAX_SIGNATURES = 16
MAX_STATES = 8
MAX_TRIALS = 2  # of one signature in one state, without a cached step between them
MAX_UNPAID = 4  # of one signature in all states that had no cached step since
MAX_FRUITLESS = 8  # signatures in a row that were proved and had no cached step
UNSTEADY = "inside, the forward differs from step to step: what was proved on one full step did not hold on the next"
FRESH = "the arguments differ in more than their tensors on every call"


class Proved:
    """The wirings of one model. Where the model's state has changed, what was proved before says nothing.

    A forward's own Python runs on every step, so that objects among the arguments (ComfyUI hands new ones to each
    call) and numbers with a fraction (how far a run has come) are no part of the key. What they change inside the
    forward is checked on each step.
    """

    def __init__(self) -> None:
        self._wirings: Recent[Wiring] = Recent(MAX_SIGNATURES)
        self._trials: Recent[int] = Recent(4 * MAX_SIGNATURES)
        self._unpaid: Recent[int] = Recent(4 * MAX_SIGNATURES)
        self._dropped: Recent[bool] = Recent(4 * MAX_SIGNATURES)
        self._states: deque[tuple[int, Hashable]] = deque(maxlen=MAX_STATES)
        self._lock = threading.Lock()
        self._count = 0
        self._fruitless = 0

    def get(self, call: Call) -> Wiring | None:
        return self._wirings.get(self._key(call))

    def put(self, call: Call, wiring: Wiring) -> None:
        key = self._key(call)
        self._wirings.put(key, replace(wiring, anew=self._dropped.get(key) is not None))

    def drop(self, call: Call) -> None:
        key = self._key(call)
        self._dropped.put(key, True)
        self._wirings.drop(key)

    def objection(self, call: Call) -> str | None:
        """Why no trial should be made for this call. A signature that comes again is tried in any case."""
        key = signature, _ = self._key(call)
        unpaid = self._unpaid.get(signature)
        if unpaid is None and self._fruitless >= MAX_FRUITLESS:
            self._unpaid.put(signature, 0)
            return FRESH
        spent = (self._trials.get(key) or 0) >= MAX_TRIALS or (unpaid or 0) >= MAX_UNPAID
        return UNSTEADY if spent else None

    def tries(self, call: Call) -> None:
        """A trial is made."""
        key = signature, _ = self._key(call)
        self._trials.put(key, 1 + (self._trials.get(key) or 0))
        self._unpaid.put(signature, 1 + (self._unpaid.get(signature) or 0))
        self._fruitless += 1

    def pays(self, call: Call) -> None:
        """A cached step followed."""
        self._fruitless = 0
        key = signature, _ = self._key(call)
        owed = self._trials.get(key)
        if owed:
            self._trials.put(key, 0)
            self._unpaid.put(signature, max(0, (self._unpaid.get(signature) or 0) - owed))

    def _key(self, call: Call) -> tuple[Hashable, int]:
        return call.kind, self._number(call.state)

    def _number(self, state: Hashable) -> int:
        """A small number for a state, which is a large value; None is that of the call before."""
        with self._lock:
            for known in reversed(self._states):
                number, seen = known
                if state is None or seen is state or seen == state:
                    if known is not self._states[-1]:  # the one used last is the last
                        self._states.remove(known)
                        self._states.append(known)
                    return number
            self._count += 1
            self._states.append((self._count, state))
            return self._count
