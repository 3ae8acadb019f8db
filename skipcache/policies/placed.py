"""Placed: the full steps that a calibration found."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from skipcache.policies.base import NEAR, Step
from skipcache.policies.schedule import Schedule


@dataclass(frozen=True)
class Placed(Schedule):
    """A schedule that knows the run that it was made for: `timesteps`, one per step, and the scheduler's class.

    A run like that one, with as many steps by the same scheduler, has its full steps at the listed places. In any other
    run a step is full where a full step of the calibrated run lies between its timestep and that of the step before.
    """

    timesteps: tuple[float, ...] = ()
    scheduler: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = len(self.timesteps)
        if self.last >= steps:
            raise ValueError(f"Placed: expected steps below {steps}, as many as timesteps, got {self.full_steps}")

    @property
    def caches(self) -> bool:
        return len(self.full_steps) < len(self.timesteps)

    def full(self, step: Step) -> bool:
        if step.before is None:
            return True
        if self.mismatch(step) is None:
            return step.index in self.full_steps
        before, now = (self._place(_mean(values())) for values in (step.before, step.timesteps))
        return any(before + NEAR < i <= now + NEAR for i in self.full_steps)

    def mismatch(self, step: Step) -> str | None:
        """Why the run of `step` is not like the calibrated one; None where nothing speaks against it."""
        steps = len(self.timesteps)
        if step.count is not None and step.count != steps:
            return f"it was made on {steps} steps, this run has {step.count}"
        if self.scheduler is not None and step.scheduler not in (None, self.scheduler):
            return f"it was made with {self.scheduler}, this run has {step.scheduler}"
        if step.index >= steps:
            return f"it was made on {steps} steps, this run has more"
        if step.position not in (None, step.index):
            return "it was made on a whole run, this one begins in the middle of the scheduler's timesteps"
        if step.on_host or step.count is None:
            known, here = self.timesteps[step.index], _mean(step.timesteps())
            if abs(here - known) > 0.1 * abs(self.timesteps[0] - self.timesteps[-1]) / steps:
                return f"it was made on {steps} steps from t = {self.timesteps[0]:g}, this run has other timesteps"
        return None

    def _place(self, t: float) -> float:
        """The index of `t` among the calibrated timesteps; a fraction between two of them."""
        known = self.timesteps
        falls = known[0] > known[-1]
        for i, (one, other) in enumerate(pairwise(known)):
            if (one >= t > other) if falls else (one <= t < other):
                return i + (one - t) / (one - other)
        beyond = t > known[0] if falls else t < known[0]
        return 0.0 if beyond else len(known) - 1.0


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
