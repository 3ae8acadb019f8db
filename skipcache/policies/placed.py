"""The policy of a calibration: full steps at the places that it found, in runs like the one that it was made on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from skipcache.policies.base import NEAR, Step


@dataclass(frozen=True)
class Placed:
    """Full steps where a calibration has them: `full_steps`, counted from 0, of a run at `timesteps`.

    A run like that one, of as many steps by the same scheduler, has its full steps at the same places. Any other has
    them by timestep: a step is full where a full step of the calibrated run lies between it and the step before.
    """

    full_steps: tuple[int, ...]
    timesteps: tuple[float, ...]
    scheduler: str | None = None

    def __post_init__(self) -> None:
        steps = len(self.timesteps)
        if not self.full_steps or self.full_steps[0] != 0 or list(self.full_steps) != sorted(set(self.full_steps)):
            raise ValueError(f"Placed: expected steps that rise from 0, got {self.full_steps}")
        if self.full_steps[-1] >= steps:
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
        """Why `step` is not of a run like the calibrated one; None where it is, for all that is known."""
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
        """Where `t` lies among the calibrated timesteps, between two of them as a fraction."""
        known = self.timesteps
        falls = known[0] > known[-1]
        for i, (one, other) in enumerate(pairwise(known)):
            if (one >= t > other) if falls else (one <= t < other):
                return i + (one - t) / (one - other)
        beyond = t > known[0] if falls else t < known[0]
        return 0.0 if beyond else len(known) - 1.0


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
