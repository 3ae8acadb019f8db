"""skipcache's own rows, and the plain model with fewer sampler steps: the rival of every cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import skipcache
from skipcache.benchmarks.names.predictors import make_predictor
from skipcache.benchmarks.peers.method import THRESHOLDS, Setting, Task, best
from skipcache.benchmarks.sampling.pipelines import ReferencePipeline

CALIBRATION_SAMPLES = 8


def calibrate(task: Task, target: float) -> skipcache.Calibration:
    """How the benchmark calibrates skipcache; used wherever it does."""
    pipe = task.pipe()
    run = lambda: task.calibration_run(pipe, batch=CALIBRATION_SAMPLES)  # noqa: E731
    return skipcache.calibrate(pipe, run, speedup=target, progress=False)


@dataclass
class Calibrated:
    """Full steps placed by `calibrate`; its FLOPs are the budget of all others."""

    name: str
    label: str
    library: str
    found: dict[float, skipcache.Calibration] = field(default_factory=dict, repr=False)

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        if target not in self.found:
            self.found[target] = calibrate(task, target)
        return {"speedup": target}

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return skipcache.accelerate(task.pipe(), calibration=self.found[setting["speedup"]])

    def usage(self, task: Task, setting: Setting) -> str:
        run = "found = skipcache.calibrate(pipe, lambda: pipe(..., generator=seeded()), "
        return f"{run}speedup={setting['speedup']:g})\nskipcache.accelerate(pipe, calibration=found)"

    def note(self, task: Task) -> str:
        return ""


@dataclass(frozen=True)
class Uniform:
    """Every `interval`-th step is full, and all after timestep `stop`: with Hold it is the paper's rule."""

    name: str
    label: str
    library: str
    predictor: str = "damped"

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return best(task, self, [intervals(task.timesteps)], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        policy = skipcache.Interval(setting["interval"], stop=setting["stop"])
        return skipcache.accelerate(task.pipe(), policy=policy, predictor=make_predictor(self.predictor))

    def usage(self, task: Task, setting: Setting) -> str:
        policy = f"skipcache.Interval({setting['interval']}, stop={setting['stop']:g})"
        return f"skipcache.accelerate(pipe, policy={policy}, predictor=skipcache.{make_predictor(self.predictor)})"

    def note(self, task: Task) -> str:
        return ""


def intervals(timesteps: Sequence[float]) -> list[Setting]:
    """Settings from least to most saving: rising intervals, each with fewer and fewer full steps at the end."""
    found: dict[int, Setting] = {}  # by number of full steps
    for interval in range(2, len(timesteps) // 2 + 1):
        for last in range(len(timesteps) // 2, len(timesteps)):
            full = sum(i % interval == 0 or i > last for i in range(len(timesteps)))
            found.setdefault(full, {"interval": interval, "stop": timesteps[last]})
    return [found[full] for full in sorted(found, reverse=True)]


@dataclass(frozen=True)
class Knob:
    """A policy with one number, `knob`; `positions` of it from least to most saving."""

    name: str
    label: str
    library: str
    knob: str
    positions: Callable[[Task], Iterable[float]]
    options: Callable[[float], dict[str, Any]]
    usage_of: str  # what is written for `options`, with a place for the number

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        return best(task, self, [[{self.knob: position} for position in self.positions(task)]], budget)

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return skipcache.accelerate(task.pipe(), **self.options(setting[self.knob]))

    def usage(self, task: Task, setting: Setting) -> str:
        return f"skipcache.accelerate(pipe, {self.usage_of.format(setting[self.knob])})"

    def note(self, task: Task) -> str:
        return ""


def speedup(**named: str) -> Knob:
    return Knob(
        **named,
        knob="speedup",
        positions=_speedups,
        options=lambda x: {"speedup": x},
        usage_of="speedup={:.3g}",
    )


def _speedups(task: Task) -> list[float]:
    """One for each number of full steps, down to the fewest that `Spread` allows."""
    fewest = len(skipcache.Spread.reaching(task.calls, 0, 1).places(task.calls))
    return [task.calls / full for full in range(task.calls, fewest - 1, -1)]


def threshold(**named: str) -> Knob:
    return Knob(
        **named,
        knob="limit",
        positions=lambda task: THRESHOLDS,
        options=lambda x: {"policy": skipcache.Threshold(x)},
        usage_of="policy=skipcache.Threshold({:.3g})",
    )


@dataclass(frozen=True)
class FewerSteps:
    """Rounded up: the rival gets at least the compute of the caches."""

    name: str
    label: str
    library: str

    def aim(self, task: Task, target: float, budget: int) -> Setting:
        calls = math.ceil(budget / task.plain_work.flops * task.calls)
        return {"steps": next(n for n in range(1, task.settings.steps + 1) if len(task.timesteps_of(n)) >= calls)}

    def attach(self, task: Task, setting: Setting) -> ReferencePipeline:
        return task.pipe()

    def usage(self, task: Task, setting: Setting) -> str:
        return f"pipe(..., num_inference_steps={setting['steps']})"

    def note(self, task: Task) -> str:
        return "rounded up: at least the compute of the caches"
