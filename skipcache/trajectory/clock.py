"""Where a call stands in time: its position in a known scheduler's timesteps, or its timestep alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from skipcache.trajectory.call import Call, Mark, on_host

NOISY = ("DDPM", "Ancestral", "SDE")  # in the names of diffusers' schedulers


def timestep_values(timestep: Tensor | float) -> tuple[float, ...]:
    """The values of a timestep argument, one where all are equal. On a device this synchronises."""
    if not isinstance(timestep, Tensor):
        return (float(timestep),)
    values = tuple(map(float, timestep.detach().flatten().tolist()))
    return values[:1] if len(set(values)) == 1 else values


def direction(before: tuple[float, ...], after: tuple[float, ...]) -> int:
    """-1 where timesteps fall, +1 where they rise, 0 where they do neither; vectors are compared by their means."""
    change = sum(after) * len(before) - sum(before) * len(after)
    return (change > 0) - (change < 0)


@dataclass(eq=False)
class SchedulerRun:
    """What one `set_timesteps` of a scheduler made. Each makes a new tensor, so another tensor is another run."""

    scheduler: Any
    timesteps: Tensor

    def holds(self, timestep: Tensor | float) -> bool:
        """`timestep` is a view of this run's own memory."""
        return isinstance(timestep, Tensor) and _memory(timestep) == _memory(self.timesteps)

    def position(self, timestep: Tensor | float, last: int | None) -> int | None:
        """The index of `timestep`, at or after `last` where values repeat; None where it shows none on the host."""
        if isinstance(timestep, Tensor) and self.holds(timestep):
            return self._by_memory(timestep)
        return self._by_value(timestep, last) if on_host(timestep) and on_host(self.timesteps) else None

    @property
    def count(self) -> int | None:
        """Where the scheduler itself says it is: at the end, past its timesteps; None if it does not say."""
        index = getattr(self.scheduler, "step_index", None)
        return index if index is not None else getattr(self.scheduler, "begin_index", None)

    def turn(self, before: int, after: int, like: Tensor | float) -> int:
        """The direction from one position to another, in the dtype of `like`, which may round a change away."""
        values = self._values(like.dtype if isinstance(like, Tensor) else self.timesteps.dtype)
        return direction((values[before],), (values[after],))

    def repeats(self, position: int) -> bool:
        """The timestep after `position` has the same value: a second evaluation of the same step (Heun, PNDM)."""
        values = self._values(self.timesteps.dtype) if on_host(self.timesteps) else ()
        return position + 1 < len(values) and values[position] == values[position + 1]

    @cached_property
    def direction(self) -> int:
        """Where the run leads on the whole, whatever single steps do. On a device this synchronises, once."""
        first, last = self.timesteps[[0, -1]].tolist()
        return direction((first,), (last,))

    @cached_property
    def is_noisy(self) -> bool:
        """Each step draws noise, as the scheduler's class and settings tell it. (DDIM's eta is a step's argument.)"""
        algorithm = str(getattr(getattr(self.scheduler, "config", None), "algorithm_type", None))
        return any(kind in type(self.scheduler).__name__ for kind in NOISY) or algorithm.startswith("sde-")

    def _by_memory(self, t: Tensor) -> int | None:
        if any(stride for size, stride in zip(t.shape, t.stride()) if size > 1):
            return None
        return (t.storage_offset() - self.timesteps.storage_offset()) // max(self.timesteps.stride(0), 1)

    def _by_value(self, t: Tensor | float, last: int | None) -> int | None:
        value = timestep_values(t)
        known = self._values(t.dtype if isinstance(t, Tensor) else self.timesteps.dtype)
        hits = [i for i, v in enumerate(known) if (v,) == value]
        later = [i for i in hits if last is None or i >= last]
        return next(iter(later or hits), None)

    def _values(self, dtype: Any) -> list[float]:
        return self._cast.setdefault(dtype, self.timesteps.to(dtype).tolist() if dtype not in self._cast else [])

    @cached_property
    def _cast(self) -> dict[Any, list[float]]:
        return {}


@dataclass(eq=False)
class Moment:
    """The time of one call. Where a run knows its `position`, the values are read only when a policy asks for them.

    `counted`: the position is the scheduler's own count, and nothing in the timestep bears it out.
    """

    timestep: Tensor | float
    run: SchedulerRun | None = None
    position: int | None = None
    counted: bool = False

    def __post_init__(self) -> None:
        # The loop may write the next timestep into the same memory before this one is asked for.
        self.mark = Mark.of(self.timestep)
        if on_host(self.timestep):
            self.timesteps = timestep_values(self.timestep)
        elif isinstance(self.timestep, Tensor):
            self.timestep = self.timestep.clone()

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        return timestep_values(self.timestep)

    def turns(self, last: Moment) -> tuple[int, int] | None:
        """The directions of the timestep and of the run's own, from `last`; None where there is nothing to compare."""
        run, at = self.run, self.position
        if not self.counted or run is None or not at:
            return None
        # Before its first step a scheduler has no count.
        before = at - 1 if last.position is None else last.position
        if not all(map(on_host, (self.timestep, last.timestep, run.timesteps))):
            return None
        return direction(last.timesteps, self.timesteps), run.turn(before, at, self.timestep)

    @property
    def is_dark(self) -> bool:
        """A run is known, but not where in it this call stands, and to read the timestep is a synchronisation."""
        return self.run is not None and self.position is None and not on_host(self.timestep)


class Clock:
    """Tells the moments of one thread's calls, from the schedulers of the pipelines that share the model."""

    def __init__(self, ignored: tuple[Tensor, ...] = ()) -> None:
        # Timesteps from before accelerate tell nothing of the next run, unless a call's timestep is a view of them.
        self._seen = list(ignored)
        self.run: SchedulerRun | None = None

    def read(self, call: Call, schedulers: list[Any], last: Moment | None) -> Moment:
        self.run = self._current(call, _runs(schedulers))
        if self.run is None:
            return Moment(call.timestep)
        known = last.position if last is not None and last.run is self.run else None
        position, count = self.run.position(call.timestep, known), self.run.count
        if position is not None or count is None:
            return Moment(call.timestep, self.run, position)
        if count >= len(self.run.timesteps):
            return Moment(call.timestep)
        return Moment(call.timestep, self.run, count, counted=True)

    def _current(self, call: Call, runs: list[SchedulerRun]) -> SchedulerRun | None:
        fresh = [run for run in runs if not any(run.timesteps is seen for seen in self._seen)]
        self._seen = [run.timesteps for run in runs] or self._seen
        holding = [run for run in runs if run.holds(call.timestep)]
        fitting = (
            holding or [r for r in fresh if r.position(call.timestep, None) is not None or r.count is not None] or fresh
        )
        if fitting:
            same = self.run is not None and fitting[0].timesteps is self.run.timesteps
            return self.run if same else fitting[0]
        going_on = self.run is not None and any(run.timesteps is self.run.timesteps for run in runs)
        return self.run if going_on else None

    def forget(self) -> None:
        self.run = None


def _runs(schedulers: list[Any]) -> list[SchedulerRun]:
    """The runs under way. Until `set_timesteps` a scheduler has timesteps that nobody asked for."""
    found = []
    for scheduler in schedulers:
        timesteps = getattr(scheduler, "timesteps", None)
        started = getattr(scheduler, "num_inference_steps", None) is not None
        if started and isinstance(timesteps, Tensor) and timesteps.ndim == 1 and timesteps.numel():
            found.append(SchedulerRun(scheduler, timesteps))
    return found


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata
