"""Interval: every n-th step is full, within a window of timesteps."""

from __future__ import annotations

from dataclasses import dataclass

from skipcache.policies.base import Step, check_number


@dataclass(frozen=True)
class Interval:
    """Every `interval`-th step is full, counted from the start of the trajectory: Skip-Cache's rule (arXiv 2411.17616).

    Args:
        interval: raising it caches more steps; 1 caches none.
        start, stop: the window in which steps may be cached, in the model's own timestep units. Steps at t >= start are
            full, and so are all steps after the first one at t <= stop. Steps outside of the window count too, and the
            step that crosses `stop` may still be cached. Where timesteps rise, give both, with start < stop: the
            comparisons turn round.

    Raises TypeError or ValueError for numbers that cannot be, and at the second step of a run for a window that does
    not fit the timesteps.

    Example:
        skipcache.accelerate(pipe, policy=skipcache.Interval(2, start=700, stop=50))
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
            if bound is not None:
                check_number("Interval", name, bound)
        if self.start is not None and self.start == self.stop:
            raise ValueError(f"Interval: start and stop are both {self.start}, so no step could be cached")

    @property
    def caches(self) -> bool:
        return self.interval > 1

    def full(self, step: Step) -> bool:
        if step.index % self.interval == 0 or step.since >= self.interval:
            return True  # a run that jumped over a full step has features older than the interval
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
