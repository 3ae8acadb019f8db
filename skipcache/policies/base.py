"""What a policy is: it says full or cached, once per step. Frozen, without torch, the same for all lanes of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

NEAR = 1e-4  # of a step: what rounding may move


@dataclass(frozen=True)
class Step:
    """What a policy may know of a step. What could synchronise with a device is a function, called only when needed.

    Provisional: fields may be added before version 1.0.

    Attributes:
        index: counts the steps of the trajectory from 0.
        timesteps: gives the step's own timestep values, one per sample, or one for all.
        before: gives those of the step before; None at the first step.
        direction: gives -1 where timesteps fall, +1 where they rise, 0 while that is not known.
        count: how many steps the run has, where a scheduler says so.
        position: which of them this one is. It differs from `index` where a run begins in the middle (img2img).
        scheduler: the class of the scheduler.
        noisy: the scheduler draws noise on each step.
        on_host: reading the timesteps synchronises with no device.
        times: gives the flow time sigma / (alpha + sigma) of each of the `count` steps, as the scheduler has them; None
            where they cannot be read on the host.
        since: how many steps after the last full one this is.
        drift: gives how far H has moved since the last full step, as relative changes summed over steps; kept only for
            policies that have `reads_drift`.
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
    times: Callable[[], tuple[float, ...] | None] = lambda: None
    since: int = 1
    drift: Callable[[], float] = lambda: math.inf


@runtime_checkable
class Policy(Protocol):
    """Which steps are full. Write your own with these two members. Provisional until version 1.0.

    Optional members: `reads_drift = True` for a policy that asks for `Step.drift`, which costs two norms of H per call
    and holds H of the last step. `agree`: True for one whose answer all processes of the default group must share, the
    name of a mesh dimension for those of another group.
    `note(step)`, asked at a run's first step: a sentence for `report`, or None.
    `mismatch(step)`: why corrections of a calibration do not fit this run, or None.

    Example:
        @dataclass(frozen=True)
        class FirstTen(skipcache.Policy):
            caches = True
            def full(self, step): return step.index < 10
    """

    @property
    def caches(self) -> bool:
        """False where every step is full."""

    def full(self, step: Step) -> bool:
        """True: all blocks run. The first step of a trajectory or lane is full whatever the answer is."""


def reads_time(policy: Policy) -> bool:
    """It has bounds in the units of one model's timesteps."""
    return any(getattr(policy, name, None) is not None for name in ("start", "stop"))


def reads_drift(policy: Policy) -> bool:
    """H must be handed out on every step."""
    return bool(getattr(policy, "reads_drift", False))


def note_of(policy: Policy, step: Step) -> str | None:
    """What `report` says of the run that begins with `step`."""
    note = getattr(policy, "note", None)
    return None if note is None else note(step)


def mismatch_of(policy: Policy, step: Step) -> str | None:
    """Why corrections do not fit the run of `step`."""
    mismatch = getattr(policy, "mismatch", None)
    return None if mismatch is None else mismatch(step)


def check_number(owner: str, name: str, value: Any, finite: bool = True) -> None:
    """Raises TypeError for anything but a number, ValueError for NaN, and for infinity where it must be `finite`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: expected a number for {name}, got {value!r}")
    if finite and not math.isfinite(value):
        raise ValueError(f"{owner}: expected a finite number for {name}, got {value}")


def check_count(owner: str, name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raises TypeError for anything but an int, ValueError for one outside of [least, most]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: expected an int for {name}, got {value!r}")
    if value < least:
        raise ValueError(f"{owner}: expected {name} >= {least}, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{owner}: expected {name} <= {most}, got {value}")
