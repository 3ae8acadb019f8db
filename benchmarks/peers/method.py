"""What is compared: a method, the positions of its knob, and what it is put on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import skipcache
from skipcache.benchmarks.options.peers import CALIBRATION_SEED
from skipcache.benchmarks.references.data.dataset import Data, balanced
from skipcache.benchmarks.sampling.flops import Meter, Work
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline
from skipcache.benchmarks.sampling.schedulers import make_scheduler

Setting = Mapping[str, Any]  # one position of a method's knob

CALIBRATION_BATCH = 4
NEAR = 0.985  # of a budget: what is as near as this is near enough
THRESHOLDS = tuple(1e-3 * 1.06**i for i in range(160))  # positions of a knob that is a threshold: to 10


class Method(Protocol):
    """A way to sample with less compute.

    Attributes:
        name: on the command line. label: in tables. library: whose it is, "" for the plain model.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def library(self) -> str: ...

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        """The position whose compute is at most `budget` FLOPs, and as near to it as the knob allows."""

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        """A pipeline of its own with the method on; it stays on as long as the pipeline lives."""

    def usage(self, task: Task, setting: Setting) -> str:
        """The lines that a user writes for it, beyond loading the model and sampling: one for each statement."""

    def note(self, task: Task) -> str:
        """A note for the reader of its row; "" for none."""


@dataclass
class Task:
    """One model, sampler and number of steps, and what is measured of the plain model once for all methods."""

    model: nn.Module
    data: Data
    settings: Any  # PeersSettings, or what has their `steps`, `seeds`, `targets` and `batch`
    prediction: str = "epsilon"  # of the model, as a scheduler's prediction_type
    make: Callable[[nn.Module, Any], Any] = ReferencePipeline  # a pipeline of a model and a scheduler
    work: dict[str, Work] = field(default_factory=dict)  # of calibration runs, by `key_of`

    def __post_init__(self) -> None:
        self.stack = skipcache.find_stack(self.model)
        self.plain = self.pipe()
        self.timesteps = self.timesteps_of(self.settings.steps)
        self.calls = len(self.timesteps)  # more than steps for second-order samplers
        weighed = lambda: self.calibration_run(self.plain, 2)  # noqa: E731
        self.meter = Meter(self.plain.transformer, self.stack.blocks, weighed, CALIBRATION_BATCH)
        with self.meter.counting(self.plain.transformer, CALIBRATION_BATCH) as self.work[""]:
            self.plain_calibration = self.calibration_run(self.plain)

    def timesteps_of(self, steps: int) -> list[float]:
        """The timesteps at which a run of so many steps calls the denoiser."""
        scheduler = make_scheduler(self.settings.scheduler, self.prediction)
        scheduler.set_timesteps(steps)
        timesteps: list[float] = scheduler.timesteps.tolist()
        return timesteps

    def pipe(self) -> Any:
        """On a copy of the modules over the same weights: methods patch modules, and leave things behind."""
        weights = (*self.model.parameters(), *self.model.buffers())
        model = copy.deepcopy(self.model, {id(weight): weight for weight in weights})
        return self.make(model, make_scheduler(self.settings.scheduler, self.prediction))

    def pipe_of_class(self, name: str, mixins: tuple[type, ...] = ()) -> Any:
        """Of a class of its own, so that no class that others use is touched."""
        pipe = self.pipe()
        pipe.__class__ = type(name, (*mixins, type(pipe)), {})
        return pipe

    def run(self, pipe: ReferencePipeline, seed: int, steps: int | None = None) -> Tensor:
        return self._sample(pipe, self.labels, seed, steps)

    def calibration_run(
        self, pipe: ReferencePipeline, steps: int | None = None, batch: int = CALIBRATION_BATCH
    ) -> Tensor:
        """A few samples of a seed, and where there are enough of them of captions, that nothing is measured on."""
        return self._sample(pipe, asked_for(batch, self.data.classes, measured=False), CALIBRATION_SEED, steps)

    @property
    def labels(self) -> Tensor:
        return asked_for(self.settings.batch, self.data.classes)

    def _sample(self, pipe: ReferencePipeline, labels: Tensor, seed: int, steps: int | None) -> Tensor:
        steps = steps or self.settings.steps
        return pipe(self.data, labels, steps=steps, guidance=self.settings.guidance, seed=seed)

    def count(self, method: Method, setting: Setting) -> Work:
        """Of a calibration run, counted once; a method's first run is for its warm-up."""
        key = key_of(method, setting)
        if key not in self.work:
            pipe = method.attach(self, setting)
            with self.meter.counting(pipe.transformer, CALIBRATION_BATCH) as work:
                if method.library == "skipcache":
                    self.calibration_run(pipe)  # its first full step is proved, anew since the model has other hooks
                    work.forget()
                samples = self.calibration_run(pipe, setting.get("steps"))
            work.psnr = compare(samples, self.plain_calibration).psnr
            self.work[key] = work
        return self.work[key]

    @property
    def plain_work(self) -> Work:
        return self.work[""]


def key_of(method: Method, setting: Setting) -> str:
    return f"{method.name} {sorted(setting.items())}"


def asked_for(batch: int, classes: int, measured: bool = True) -> Tensor:
    """Labels, all different where there are as many classes; of many captions, others to measure than to tune on."""
    if classes < 2 * max(batch, CALIBRATION_BATCH):
        return balanced(batch, classes)
    mixed = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    return mixed[:batch] if measured else mixed[-batch:]


Ladder = Sequence[Setting]  # from least to most saving


def best(task: Task, method: Method, ladders: Sequence[Ladder], budget: int) -> Setting:
    """Of each ladder the position nearest to `budget` FLOPs from below; of these the one most faithful in calibration.

    Where no position is within the budget: the one with least compute. Raises ValueError where none saves any.
    """
    found = [nearest(task, method, ladder, budget) for ladder in ladders]
    within = [setting for setting in found if task.count(method, setting).flops <= budget]
    if within:
        return max(within, key=lambda setting: task.count(method, setting).psnr)
    least = min(found, key=lambda setting: task.count(method, setting).flops)
    if task.count(method, least).flops >= task.plain_work.flops:
        raise ValueError(f"it runs, but saves no compute in a {type(task.model).__name__}")
    return least


def nearest(task: Task, method: Method, ladder: Ladder, budget: int) -> Setting:
    """By bisection: the first position within the budget, or the last of all.

    What adapts to the sample need not save more at every position: of those tried it takes the one with most compute.
    """

    def flops(i: int) -> int:
        return task.count(method, ladder[i]).flops

    low, high = 0, len(ladder) - 1
    if flops(high) > budget:
        return ladder[high]
    while low < high and not NEAR * budget <= flops(high) <= budget:
        middle = (low + high) // 2
        low, high = (low, middle) if flops(middle) <= budget else (middle + 1, high)
    tried = (i for i in range(len(ladder)) if key_of(method, ladder[i]) in task.work)
    return ladder[max((i for i in tried if flops(i) <= budget), key=flops)]
