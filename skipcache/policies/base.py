"""Policies: full or cached, per step. Frozen, without tensors of features, and the same for all lanes of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Step:
    """What a policy may know of a step. Timesteps are read only when asked for: on a device that is a synchronisation.

    `index` counts the steps of the trajectory from 0. `timesteps` gives the step's own values, one per sample or one
    for all; `before` those of the step before, None at the first. `direction` gives -1 where timesteps fall, +1 where
    they rise, 0 while it is not known. `count` is how many steps the run has and `position` which of them this is,
    where a scheduler tells: a run that begins in the middle of the scheduler's timesteps has index 0 there; `scheduler`
    is its class, and `noisy` that it draws noise on each step. `on_host`: to read the timesteps synchronises with no
    device. `since` is how many steps after the last full one this is. `drift` gives how far H has moved since then, in
    relative change summed over steps, as `drift.Drift` estimates it; it is kept only for policies that have
    `reads_drift`.
    """

    index: int
    timesteps: Callable[[], tuple[float, ...]]
    before: Callable[[], tuple[float, ...]] | None
    direction: Callable[[], int]
    count: int | None = None
    position: int | None = None
    scheduler: str | None = None
    noisy: bool = False
    on_host: bool = True
    since: int = 1
    drift: Callable[[], float] = lambda: math.inf


NEAR = 1e-4  # of a step: what rounding may move


@runtime_checkable
class Policy(Protocol):
    """What the trajectory asks of a policy; bring your own by writing these two.

    More may be there: `reads_drift = True` for one that asks for `Step.drift`, which costs two norms of H per call
    and holds H of the last step; `agree = True` for one whose answer all processes of the default group must share;
    `note(step)`, what `report` shall say of a run, or None, asked at its first step.
    """

    @property
    def caches(self) -> bool:
        """False where every step is full."""

    def full(self, step: Step) -> bool:
        """True: all blocks run. The first step of a trajectory or lane is full whatever the answer."""


def reads_drift(policy: Policy) -> bool:
    """H is to be handed out on every step."""
    return bool(getattr(policy, "reads_drift", False))


def note_of(policy: Policy, step: Step) -> str | None:
    """What `report` shall say of the run that begins with `step`."""
    note = getattr(policy, "note", None)
    return None if note is None else note(step)


@dataclass(frozen=True)
class Interval:
    """Every `interval`-th step is full, counted from the start of the trajectory: Skip-Cache's rule (arXiv 2411.17616).

    Raising `interval` caches more steps. `start` and `stop` bound the window in which steps may be cached, in the
    model's own timestep units: steps at t >= start are full, and all steps after the first one at t <= stop. Steps
    outside the window count as well, and the step that crosses `stop` may still be cached. For models whose timesteps
    rise give both, with start < stop; the comparisons turn round with them.
    """

    interval: int
    start: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.interval, int) or isinstance(self.interval, bool):
            raise TypeError(f"interval: expected an int, got {self.interval!r}")
        if self.interval < 1:
            raise ValueError(f"interval: expected at least 1, got {self.interval}; 1 runs all blocks on every step")
        for name in ("start", "stop"):
            bound = getattr(self, name)
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float))):
                raise TypeError(f"Interval: expected a number or None for {name}, got {bound!r}")
        if self.start is not None and self.start == self.stop:
            raise ValueError(f"Interval: start and stop are both {self.start}, so no step could be cached")

    @property
    def caches(self) -> bool:
        return self.interval > 1

    def full(self, step: Step) -> bool:
        if step.index % self.interval == 0:
            return True
        return self._outside(step)

    def _outside(self, step: Step) -> bool:
        if self.start is None and self.stop is None:
            return False
        self._check_units(step)
        sign = self._sign
        early = self.start is not None and any(sign * t <= sign * self.start for t in step.timesteps())
        return early or self._closed(step)

    def _closed(self, step: Step) -> bool:
        if self.stop is None or step.before is None:
            return False
        return any(self._sign * t >= self._sign * self.stop for t in step.before())

    @property
    def _sign(self) -> int:
        rising = self.start is not None and self.stop is not None and self.start < self.stop
        return 1 if rising else -1

    def _check_units(self, step: Step) -> None:
        turn = step.direction()
        if turn == -self._sign:
            got, want = ("rise", "start < stop") if turn > 0 else ("fall", "start > stop")
            raise ValueError(
                f"Interval: start={self.start}, stop={self.stop} do not fit a model whose timesteps {got}; "
                f"give both, with {want}, in the model's own units"
            )
        if step.index != 1 or step.before is None:
            return
        seen = (*step.before(), *step.timesteps())
        fractions = max(map(abs, seen)) <= 1 and any(t % 1 for t in seen)
        too_large = fractions and any(b is not None and abs(b) > 1 for b in (self.start, self.stop))
        too_small = min(map(abs, seen)) > 1 and self.start is not None and abs(self.start) <= 1
        if too_large or too_small:
            raise ValueError(
                f"Interval: start={self.start}, stop={self.stop} do not fit timesteps like {seen[0]:g}; "
                f"give them in the model's own units"
            )


@dataclass(frozen=True)
class Schedule:
    """The steps in `full_steps` are full, counted from 0 at the start of the trajectory; beyond the last, all are."""

    full_steps: tuple[int, ...]

    def __init__(self, full_steps: Iterable[int]) -> None:
        steps = tuple(full_steps) if isinstance(full_steps, Iterable) else (full_steps,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in steps):
            raise TypeError(f"Schedule: expected ints, got {full_steps!r}")
        if 0 not in steps or min(steps) < 0:
            raise ValueError(
                f"Schedule: expected steps >= 0 with 0 among them, got {steps}; the first step is always full"
            )
        object.__setattr__(self, "full_steps", tuple(sorted(set(steps))))

    @property
    def caches(self) -> bool:
        return len(self.full_steps) <= self.full_steps[-1]

    def full(self, step: Step) -> bool:
        return step.index in self.full_steps or step.index > self.full_steps[-1]


@dataclass(frozen=True)
class Threshold:
    """A step is full when the shallow feature has moved by `limit` since the last full one, and cached until then.

    H says without the deep blocks how fast features change now: the relative changes of H from step to step, which are
    summed as in TeaCache (arXiv 2411.19108), are small early in a run and large at its end. To decide is to read one
    number from the device per step.

    Attributes:
        limit: the change of H, as a fraction of its norm, that may be bridged. Raising it caches more steps.
        most: cached steps in a row at most.
        first: steps at the start of a run that are full. The first one always is.
        agree: a step is full on all processes of the default process group where it is on any. A model that is sharded
            over processes needs it, since a collective inside a block that others skip waits forever. All processes
            must call the model equally often. Costs one all-reduce of one number per call.
    """

    limit: float
    most: int = 8
    first: int = 1
    agree: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, (int, float)):
            raise TypeError(f"Threshold: expected a number for limit, got {self.limit!r}; 0.1 is a change of a tenth")
        for name in ("most", "first"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int):
                raise TypeError(f"Threshold: expected an int for {name}, got {getattr(self, name)!r}")
            if getattr(self, name) < 1:
                raise ValueError(f"Threshold: expected {name} >= 1, got {getattr(self, name)}; it counts steps")
        if not isinstance(self.agree, bool):
            raise TypeError(
                f"Threshold: expected True or False for agree, got {self.agree!r}; True is the default process group"
            )
        if not self.limit > 0:
            raise ValueError(f"Threshold: expected limit > 0, got {self.limit}; interval=1 caches nothing")

    @property
    def caches(self) -> bool:
        return True

    @property
    def reads_drift(self) -> bool:
        return True

    def full(self, step: Step) -> bool:
        if step.index < self.first or step.since > self.most:
            return True
        return not step.drift() < self.limit
