"""Runs of several pipelines in turns, step by step: all make one step, then all make the next.

A shared machine slows down and recovers over seconds, by more than what is measured. So two steps are compared that
were made right after each other, and what is shown is the median of such pairs. Who goes first moves on from step to
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

from skipcache.benchmarks.sampling.stopwatch import TimedPipeline, garbage_kept

EARLY = 3  # steps of the plain model that a first step is compared with


@dataclass(frozen=True)
class Run:
    """Seconds of a whole run, and those of the model at each step."""

    seconds: float
    steps: tuple[float, ...]

    def over(self, other: Run, at: Iterable[int]) -> float:
        """A step of this run over the same step of the other one: the median of those `at`."""
        return median(self.steps[i] / other.steps[i] for i in at)

    def first_over(self, plain: Run) -> float:
        """The first step over early ones of the plain model, which were made in turns with it."""
        return self.steps[0] / median(plain.steps[:EARLY])


Inputs = tuple[Tensor, dict[str, Any]]  # noise, conditioning


def in_turns(
    pipes: Mapping[str, TimedPipeline], inputs: Inputs, steps: int, at_most: Mapping[str, int] | None = None
) -> dict[str, Run]:
    """A run of each pipeline, by name; those named in `at_most` stop after so many of the steps."""
    stops = dict.fromkeys(pipes, steps) | dict(at_most or {})
    names = list(pipes)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with garbage_kept():
        for pipe in pipes.values():
            pipe.begin(*inputs, steps)
        for i in range(steps):
            first = i % len(names)
            for name in (*names[first:], *names[:first]):
                if i < stops[name]:
                    seen[name].append(pipes[name].advance())
    return {
        name: Run(sum(whole for _, whole in pairs), tuple(of_model for of_model, _ in pairs))
        for name, pairs in seen.items()
    }


def whole_runs(pipes: Mapping[str, TimedPipeline], inputs: Inputs, steps: int, turn: int) -> dict[str, float]:
    """Seconds of a run of each pipeline, one after another, in which the host never waits for the device."""
    names = list(pipes)
    first = turn % len(names)
    with garbage_kept():
        return {name: pipes[name].denoise(*inputs, steps) for name in (*names[first:], *names[:first])}
