"""One run of a scheduler: where a timestep stands in it, and what the scheduler says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from skipcache.blocks import memory_of, on_host
from skipcache.trajectory.time.direction import Values, direction, timestep_values
from skipcache.trajectory.time.flow_time import flow_times

# In the names of diffusers' schedulers that draw noise on each step, beside those that their settings show.
NOISY = (
    "Ancestral", "CMStochastic", "CosineDPM", "DDPM", "DiscreteDDIM", "EntropyBound", "LCM", "SASolver", "SDE", "TCD",
    "UnCLIP",
)  # fmt: skip


# Those whose samples are no sum of the last two samples and outputs: noise by an argument, or Runge and Kutta's sums.
BENT = ("DDIM", "PNDM")


@dataclass(eq=False)
class SchedulerRun:
    """What one `set_timesteps` of a scheduler made. Each makes a new tensor, so another tensor is another run.

    `told`: the flow times, where a client has said them.
    """

    scheduler: Any
    timesteps: Tensor
    told: tuple[float, ...] | None = None

    def holds(self, timestep: Tensor | float) -> bool:
        """`timestep` is a view of this run's own memory."""
        return isinstance(timestep, Tensor) and memory_of(timestep) == memory_of(self.timesteps)

    def position(self, timestep: Tensor | float, last: int | None, values: Values | None = None) -> int | None:
        """The index of `timestep`, at or after `last` where values repeat; None where it shows none.

        `values`: those of `timestep`, where a device was read for them.
        """
        if isinstance(timestep, Tensor) and self.holds(timestep):
            return self._by_memory(timestep)
        if values is None and on_host(timestep) and on_host(self.timesteps):
            values = timestep_values(timestep)
        return None if values is None else self._by_value(timestep, values, last)

    @property
    def count(self) -> int | None:
        """The scheduler's own `step_index`, else its `begin_index`, else None; after the last step len(timesteps)."""
        index = getattr(self.scheduler, "step_index", None)
        return index if index is not None else getattr(self.scheduler, "begin_index", None)

    def turn(self, before: int, after: int, like: Tensor | float) -> int | None:
        """The direction from one position to another, in the dtype of `like`, which may round a change away."""
        values = self._values(like.dtype if isinstance(like, Tensor) else self.timesteps.dtype)
        return direction((values[before],), (values[after],))

    def repeats(self, position: int) -> bool:
        """The timestep after `position` has the same value: a second evaluation of the same step (Heun, PNDM)."""
        values = self._values(self.timesteps.dtype) if on_host(self.timesteps) else self._read
        return position + 1 < len(values) and values[position] == values[position + 1]

    @cached_property
    def direction(self) -> int:
        """The direction from the first timestep to the last. On a device this synchronises, once."""
        first, last = self.timesteps[[0, -1]].tolist()
        return direction((first,), (last,)) or 0

    @cached_property
    def times(self) -> tuple[float, ...] | None:
        """The flow time of each step; see `flow_times`."""
        return self.told if self.scheduler is None else flow_times(self.scheduler, self.timesteps)

    @cached_property
    def is_noisy(self) -> bool:
        """Each step draws noise, by the scheduler's class and settings. (DDIM's eta is an argument of a step.)"""
        config = getattr(self.scheduler, "config", None)
        algorithm = str(getattr(config, "algorithm_type", None))
        return self._is(NOISY) or algorithm.startswith("sde-") or bool(getattr(config, "stochastic_sampling", False))

    @cached_property
    def is_linear(self) -> bool:
        """Each sample is a sum of the last samples and outputs. A DDIM step may draw noise, and clipping bends it."""
        config = getattr(self.scheduler, "config", None)
        bent = any(getattr(config, name, False) for name in ("clip_sample", "thresholding"))
        return not (bent or self.is_noisy or self._is(BENT))

    def _is(self, kinds: tuple[str, ...]) -> bool:
        return any(kind in type(self.scheduler).__name__ for kind in kinds)

    def _by_memory(self, t: Tensor) -> int | None:
        if any(stride for size, stride in zip(t.shape, t.stride()) if size > 1):
            return None
        return (t.storage_offset() - self.timesteps.storage_offset()) // max(self.timesteps.stride(0), 1)

    def _by_value(self, t: Tensor | float, value: Values, last: int | None) -> int | None:
        known = self._values(t.dtype if isinstance(t, Tensor) else self.timesteps.dtype)
        hits = [i for i, v in enumerate(known) if (v,) == value]
        later = [i for i in hits if last is None or i >= last]
        return next(iter(later or hits), None)

    def _values(self, dtype: Any) -> list[float]:
        if dtype not in self._cast:
            self._cast[dtype] = self.timesteps.to(dtype).tolist()
        return self._cast[dtype]

    @property
    def _read(self) -> list[float]:
        """The timesteps of a device, in any dtype in which they were read already."""
        return next(iter(self._cast.values()), [])

    @cached_property
    def _cast(self) -> dict[Any, list[float]]:
        """The timesteps in each dtype that was asked for."""
        return {}


def current_runs(schedulers: Sequence[Any]) -> list[SchedulerRun]:
    """The runs under way. Before `set_timesteps` a scheduler has timesteps that nobody asked for; they are left out."""
    found = []
    for scheduler in schedulers:
        timesteps = getattr(scheduler, "timesteps", None)
        started = getattr(scheduler, "num_inference_steps", None) is not None
        if started and isinstance(timesteps, Tensor) and timesteps.ndim == 1 and timesteps.numel():
            found.append(SchedulerRun(scheduler, timesteps))
    return found


def same_run(one: SchedulerRun | None, other: SchedulerRun | None) -> bool:
    """Both are the run of one `set_timesteps`, or there is none."""
    return one is other or (one is not None and other is not None and one.timesteps is other.timesteps)
