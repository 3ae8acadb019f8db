"""Watches a run that samples: tells runs, steps and lanes apart, and notes samples and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skipcache.blocks import Override
from skipcache.policies import Interval
from skipcache.predictors import Forecast
from skipcache.runtime import correctable, main_output
from skipcache.stack import Stack, argument_names
from skipcache.trajectory import Call, CallReader, Mark, Repeat, Runs, Visit, processes_of, timestep_values

PREDICTOR = Forecast(1)
UNCACHED = Interval(1)


@dataclass(frozen=True, eq=False)
class Seen:
    """One call: the sample x that came in, and the output e that went out, without learned variances."""

    x: Tensor
    e: Tensor


SeenAt = dict[int, Seen]  # by lane, in the order in which lanes were first called


class Watcher(Override):
    """Stands in for the model's forward while `run` samples; tells runs, steps and lanes apart, and notes x and e.

    notes: samples and outputs are noted, which takes memory.
    """

    def __init__(
        self, model: nn.Module, stack: Stack, scheduler: Any, predictor: Any = PREDICTOR, policy: Any = UNCACHED
    ) -> None:
        super().__init__(model)
        self.notes, self.result = True, None  # type: bool, Any
        self.stack, self.scheduler = stack, scheduler
        self.reader = CallReader(tuple(argument_names(model)), stack.sample, stack.timestep, model)
        self.trajectories = Runs(policy, predictor)
        self.trajectories.processes = processes_of(model)
        self.seen: list[list[SeenAt]] = []  # by run and step
        self.correctable = True
        self.flow_times: tuple[float, ...] | None = None  # of the first run, where a scheduler tells
        self._times: list[list[tuple[float, ...]]] = []
        self._lanes: list[Any] = []
        self._first: tuple[Mark, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.reader.read(args, kwargs)
        if call is None:
            return self.plain(*args, **kwargs)
        visit = self.trajectories.visit(call, [] if self.scheduler is None else [self.scheduler])
        if isinstance(visit, Repeat):
            return self.plain(*args, **kwargs)
        if visit.opens_step:
            if visit.step == 0:
                self._times.append([])
                self.seen.append([])
                self._lanes = []
            self._times[-1].append(timestep_values(call.timestep))
            self.seen[-1].append({})
        if not self._first:
            held = (call.sample, *call.conditioning)
            self._first = tuple(Mark.of(x.clone() if isinstance(x, Tensor) else x) for x in held)
            self.flow_times = visit.at.view.times()
            self.begins(call, visit.at.view.count)
        lane = self._number(visit.lane)
        output = self.step(call, visit, lane)
        visit.note(output)
        self.note(call, lane, output)
        return output

    def begins(self, call: Call, steps: int | None) -> None:
        """The first call of all has come; `steps`: of its run, where a scheduler tells."""

    def step(self, call: Call, visit: Visit, lane: int) -> Any:
        return call.run(self.plain)

    def note(self, call: Call, lane: int, output: Any) -> None:
        if not self.notes:
            return
        e = main_output(output, call)
        self.correctable = self.correctable and correctable(output, call)
        if e is not None:
            self.seen[-1][-1][lane] = Seen(call.x.clone(), e.clone())

    def _number(self, lane: Any) -> int:
        if lane not in self._lanes:  # lanes are told apart by identity
            self._lanes.append(lane)
        return self._lanes.index(lane)

    @property
    def runs(self) -> list[int]:
        """How many steps each had."""
        return list(map(len, self._times))

    def steps(self) -> int:
        if len(set(self.runs)) > 1:
            raise ValueError(f"run: its runs of the model have {self.runs} steps; calibrate on runs of one length")
        return self.runs[0]

    def timesteps(self) -> tuple[float, ...]:
        return tuple(sum(values) / len(values) for values in self._times[0])

    def check_repeats(self, first: Watcher) -> None:
        """Raises ValueError where this was not the same run as `first`."""
        same = (mark.equal(theirs.value) for mark, theirs in zip(self._first, first._first))
        if len(self._first) != len(first._first) or not all(same):
            raise ValueError("run: two calls of it did not begin with equal inputs; seed inside of it")
        if self.runs != first.runs:
            raise ValueError("run: it called the model another number of times the second time; it must repeat itself")


W = TypeVar("W", bound=Watcher)


def watch(watcher: W, run: Callable[[], Any]) -> W:
    """`watcher`, after `run`; what that returns is its `result`."""
    watcher.put_on()
    try:
        with torch.no_grad():
            watcher.result = run()
    finally:
        watcher.take_off()
    return watcher
