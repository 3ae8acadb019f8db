"""A race on a pipeline of one's own: the methods of `skipcache peers` that need nothing but the pipeline."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.options.peers import CALIBRATION_SEED
from skipcache.benchmarks.peers.method import CALIBRATION_BATCH, Task
from skipcache.benchmarks.sampling.flops import Meter
from skipcache.benchmarks.sampling.outputs import as_samples

Run = Callable[[Any, int, int], Any]  # (pipeline, sampler steps, seed) -> samples


@dataclass(frozen=True)
class RaceSettings:
    steps: int
    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    methods: tuple[str, ...]
    batch: int = CALIBRATION_BATCH  # the meter counts whole runs, whose batch never changes

    def __post_init__(self) -> None:
        if not min(self.targets) > 1:
            raise ValueError(f"speedup: expected a number above 1, got {self.targets[0]}")
        if self.steps < 4:
            raise ValueError(f"steps: expected at least 4, got {self.steps}; fewer leave nothing to reuse")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or CALIBRATION_SEED in self.seeds:
            raise ValueError(
                f"seeds: expected different numbers, and not {CALIBRATION_SEED}, on which methods are tuned, "
                f"got {list(self.seeds)}"
            )


class OwnTask(Task):
    """A pipeline and the function that samples with it, in the place of a reference and its data."""

    def __init__(self, pipe: Any, sample: Run, settings: RaceSettings) -> None:
        self.source, self.sample, self.settings, self.work = pipe, sample, settings, {}
        self.model = denoiser_of(pipe)
        self.stack = skipcache.find_stack(self.model)
        self.plain = self.pipe()
        self._check_sample()
        model, seen = self.plain.transformer, list[Any]()
        self.meter = Meter(model, self.stack.blocks, lambda: self.calibration_run(self.plain, 2), CALIBRATION_BATCH)
        handle = model.register_forward_pre_hook(self._noting(seen), with_kwargs=True)
        with self.meter.counting(model, CALIBRATION_BATCH) as self.work[""]:
            self.plain_calibration = self.calibration_run(self.plain)
        handle.remove()
        self.timesteps = one_per_step(seen, len(self.plain.scheduler.timesteps))
        self.calls = len(self.timesteps)  # more than steps for second-order samplers

    def pipe(self) -> Any:
        """A copy of the pipeline that shares all weights: methods patch modules, and leave things behind."""
        parts = self.source.components.values()
        own = {id(self.model), id(self.source.scheduler), id(None)}
        shared = [part for part in parts if id(part) not in own]
        weights = (*self.model.parameters(), *self.model.buffers())
        return copy.deepcopy(self.source, {id(one): one for one in (*shared, *weights)})

    def timesteps_of(self, steps: int) -> list[float]:
        """As many of the whole run's as a run of so many steps has calls, rounded up."""
        count = -(-steps * self.calls // self.settings.steps)
        return [self.timesteps[i * self.calls // count] for i in range(count)]

    def run(self, pipe: Any, seed: int, steps: int | None = None) -> Tensor:
        return as_samples(self.sample(pipe, steps or self.settings.steps, seed))

    def calibration_run(self, pipe: Any, steps: int | None = None, batch: int = 0) -> Tensor:
        """Of a seed that nothing is measured on. The batch is the function's own."""
        return self.run(pipe, CALIBRATION_SEED, steps)

    def _check_sample(self) -> None:
        """The function must use all that it is given: else rows would compare something else."""
        given = [self.run(self.plain, seed, 2) for seed in (CALIBRATION_SEED, CALIBRATION_SEED, self.settings.seeds[0])]
        short = len(self.plain.scheduler.timesteps)
        if not torch.equal(given[0], given[1]):
            raise ValueError(
                "expected equal samples of equal seeds from your function, got others; "
                "give the pipeline generator=torch.Generator().manual_seed(seed)"
            )
        if torch.equal(given[0], given[2]):
            raise ValueError("expected other samples of another seed from your function, got equal ones; use `seed`")
        self.run(self.plain, CALIBRATION_SEED, self.settings.steps)
        if len(self.plain.scheduler.timesteps) <= short:
            raise ValueError(
                f"expected your function to take {self.settings.steps} sampler steps where it is asked for them, "
                f"got {len(self.plain.scheduler.timesteps)}; give the pipeline num_inference_steps=steps"
            )

    def _noting(self, seen: list[float]) -> Callable[..., None]:
        signature = inspect.signature(type(self.model).forward)

        def note(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = signature.bind_partial(model, *args, **kwargs).arguments
            seen.append(float(torch.as_tensor(given[self.stack.timestep]).flatten()[0]))

        return note


def denoiser_of(pipe: Any) -> nn.Module:
    """Raises ValueError for a pipeline whose copies could not be compared with each other."""
    model = getattr(pipe, "transformer", None)
    if not isinstance(model, nn.Module) or not hasattr(pipe, "scheduler") or not hasattr(pipe, "components"):
        raise ValueError(
            f"expected a pipeline of diffusers with a transformer and a scheduler, got {type(pipe).__name__}"
        )
    if getattr(pipe, "transformer_2", None) is not None:
        raise ValueError(
            "expected a pipeline with one denoiser, got a second one, transformer_2, which the peers do not know"
        )
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError("expected a pipeline without offloading, got hooks of accelerate; load it without them")
    if is_accelerated(pipe):
        raise ValueError("expected a plain pipeline, got an accelerated one; call skipcache.restore(pipe) first")
    return model


def is_accelerated(pipe: Any) -> bool:
    try:
        skipcache.report(pipe)
    except ValueError:
        return False
    return True


def one_per_step(seen: list[float], steps: int) -> list[float]:
    """Of the timesteps of all calls: guidance by separate calls repeats each."""
    if steps and len(seen) % steps == 0:
        return seen[:: len(seen) // steps]
    return [t for i, t in enumerate(seen) if i == 0 or t != seen[i - 1]]
