"""Where a call stands in time: its position in a known scheduler's timesteps, or its timestep alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from skipcache.blocks import on_host
from skipcache.trajectory.call import Call
from skipcache.trajectory.mark import Mark
from skipcache.trajectory.time.direction import Values, direction, timestep_values
from skipcache.trajectory.time.scheduler_run import SchedulerRun, current_runs, same_run

MAX_GOING = 8  # runs of schedulers on one thread


@dataclass(frozen=True, eq=False)
class Instant:
    """The time of one call.

    Attributes:
        timestep: as it was given; on a device a copy, since a loop may write the next one into the same memory.
        mark: of the timestep argument itself.
        run: the scheduler's run that the call belongs to, where one is known.
        position: which of the run's timesteps this is, where that is known.
        counted: the position is the scheduler's own count, and nothing in the timestep confirms it.
        counts: that count may be used.
        read: the timestep's values, once they were read; an instant and what it is made into share the list.
    """

    timestep: Tensor | float
    mark: Mark
    run: SchedulerRun | None = None
    position: int | None = None
    counted: bool = False
    counts: bool = True
    read: list[Values] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        timestep: Tensor | float,
        run: SchedulerRun | None = None,
        position: int | None = None,
        counted: bool = False,
    ) -> Instant:
        mark = Mark.of(timestep)
        if on_host(timestep):
            return cls(timestep, mark, run, position, counted, read=[timestep_values(timestep)])
        assert isinstance(timestep, Tensor)
        return cls(timestep.clone(), mark, run, position, counted)

    def after(self, last: Instant | None, read: bool = False) -> Instant:
        """With its position in the run, at or after that of `last`, where values repeat. `read`: look at a device."""
        if self.run is None or self.position is not None:
            return self
        known = last.position if last is not None and same_run(last.run, self.run) else None
        position = self.run.position(self.mark.value, known, self.timesteps if read or self.read else None)
        count = self.run.count
        if position is None and not self.counts and (read or on_host(self.timestep)):
            return self.alone  # a loop beside the pipeline's
        if position is not None or count is None or not self.counts:
            return replace(self, position=position)
        if count >= len(self.run.timesteps):
            return self.alone
        return replace(self, position=count, counted=True)

    @property
    def alone(self) -> Instant:
        """The same time without the run: by the timestep alone."""
        return self if self.run is None else replace(self, run=None, position=None, counted=False)

    def is_unannounced(self, last: Instant) -> bool:
        """It begins a run in the scheduler's run of `last`, which was not called at this time."""
        run = self.run
        if run is None or not same_run(run, last.run) or run.holds(self.mark.value):
            return False
        at_one_time = self.after(None).position == last.position and last.mark.same_or_equal(self.mark)
        return not at_one_time

    @property
    def repeats(self) -> bool:
        """The run's next timestep has the same value: a second evaluation of the step."""
        return self.run is not None and self.position is not None and self.run.repeats(self.position)

    def next(self) -> Instant:
        """The same timestep, one position on."""
        return self if self.position is None else replace(self, position=self.position + 1)

    @property
    def timesteps(self) -> Values:
        """The timestep's values. On a device this synchronises, once."""
        if not self.read:
            self.read.append(timestep_values(self.timestep))
        return self.read[0]

    @property
    def is_dark(self) -> bool:
        """A run is known, but not the position in it, and reading the timestep would synchronise."""
        return self.run is not None and self.position is None and not on_host(self.timestep)

    def directions_from(self, last: Instant) -> tuple[int | None, int | None] | None:
        """Since `last`, the direction of the timestep and that of the run's own; None where they cannot be compared."""
        run, at = self.run, self.position
        if not self.counted or run is None or not at:
            return None
        # Before its first step a scheduler has no count.
        before = at - 1 if last.position is None else last.position
        if not all(map(on_host, (self.timestep, last.timestep, run.timesteps))):
            return None
        return direction(last.timesteps, self.timesteps), run.turn(before, at, self.timestep)


class Clock:
    """Gives the instants of one thread's calls, from the schedulers of the pipelines that share the model."""

    def __init__(self, ignored: tuple[Tensor, ...] = ()) -> None:
        # Timesteps from before accelerate tell nothing of the next run, unless a call's timestep is a view of them.
        self._seen = list(ignored)
        self._going: list[SchedulerRun] = []  # the one that was called last is the first

    def read(self, call: Call, schedulers: Sequence[Any], counts: bool = True) -> Instant:
        """The instant of `call`, in the run that is under way, if one is; `Instant.after` finds the position.

        `counts`: the schedulers are those of the pipeline that calls, so that they count its steps.
        """
        run = self._current(call, current_runs(schedulers))
        if run is not None:
            self._going = [run, *(other for other in self._going if other is not run)][:MAX_GOING]
        return replace(Instant.of(call.timestep, run), counts=counts)

    def _current(self, call: Call, runs: list[SchedulerRun]) -> SchedulerRun | None:
        fresh = [run for run in runs if not any(run.timesteps is seen for seen in self._seen)]
        self._seen = [run.timesteps for run in runs] or self._seen
        holding = [run for run in runs if run.holds(call.timestep)]
        placed = [run for run in fresh if run.position(call.timestep, None) is not None or run.count is not None]
        fitting = holding or placed or fresh
        known = [one for one in self._going if any(one.timesteps is run.timesteps for run in fitting[:1] or runs)]
        return next(iter(known or fitting), None)

    def forget(self, run: SchedulerRun | None) -> None:
        """`run` is over: until the scheduler has other timesteps it tells nothing."""
        self._going = [one for one in self._going if one is not run]
