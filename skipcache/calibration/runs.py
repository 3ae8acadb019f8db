"""The runs of one calibration: one uncached, and trials with cached steps that are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from skipcache.calibration.check import strayed
from skipcache.calibration.errors import Measure
from skipcache.calibration.runner import attached
from skipcache.calibration.step_maps import StepMaps
from skipcache.calibration.trial import Trial
from skipcache.calibration.watcher import PREDICTOR, Watcher, watch
from skipcache.engines.hooks import HookEngine
from skipcache.policies import Placed
from skipcache.predictors import Damped, Forecast
from skipcache.runtime import Corrections, Costs, Uncounted
from skipcache.trajectory import Call, processes_of

LEARNING = 4  # the interval of the run on which the sampler is learned

T = TypeVar("T")
Longest = Callable[[list["Cost"], int | None], int]


@dataclass(frozen=True)
class Cost:
    """FLOPs of a full and of a cached call; or the units that they run."""

    full: int
    cached: int

    def speedup(self, full_steps: int, steps: int) -> float:
        """The FLOP-ideal one of a run."""
        return steps * self.full / (full_steps * self.full + (steps - full_steps) * self.cached)


class Runs:
    """Samples, uncached and cached. `engines` has one for each choice of units to keep.

    `sample_uncached` comes first; `uncached`, `costs` and `steps` are known after it.
    """

    def __init__(
        self,
        model: nn.Module,
        engines: list[HookEngine],
        scheduler: Any,
        run: Callable[[], Any],
        tick: Callable[[str], None],
    ) -> None:
        self.model, self.engines, self.scheduler = model, engines, scheduler
        self._run, self._tick = run, tick
        self._processes = processes_of(model)
        self.costs: list[Cost] = []
        self._maps: StepMaps | None = None
        self._unchecked: Watcher | None = None  # the uncached run of other samples

    def sample_uncached(self, longest: Longest) -> None:
        """Errors are measured on this run, the others are compared with it.

        `longest(costs, steps)` gives the longest distance between full steps that will be tried; it is asked at the
        first call, when costs are known, and steps where a scheduler says them. Raises ValueError where `run` never
        calls the model.
        """
        engine = self.engines[0]

        def reach(blank: Call, steps: int | None) -> int:
            self.costs = [self._cost(engine, blank) for engine in self.engines]
            return longest(self.costs, steps)

        tick = lambda: self._tick(_what(engine, "the uncached run"))  # noqa: E731
        self.uncached = Measure(self.model, engine, self.scheduler, reach, tick)
        with attached(engine):
            watch(self.uncached, self._run)
        self.uncached.trajectories.drop()
        if not self.costs:
            raise ValueError(f"run: it never called {type(self.model).__name__} with a sample and a timestep")
        self.steps = self.uncached.steps()
        self.uncached.correctable = self.alike(self.uncached.correctable)

    def alike(self, value: T) -> T:
        """What was measured: where several processes hold the model, all go by what the first of them has measured."""
        return value if self._processes is None else self._processes.first(value)

    def trial(
        self,
        engine: HookEngine,
        full_steps: tuple[int, ...],
        *,
        fit: bool = False,
        corrections: Corrections | None = None,
        predictor: Forecast | Damped = PREDICTOR,
    ) -> Trial:
        """A cached run. `fit`: corrections are fitted on the way; else `corrections` are applied."""
        maps = self.maps(engine) if fit else None
        policy = Placed(full_steps, self.uncached.timesteps())
        self._tick(_what(engine, f"trying {len(full_steps)} full steps"))
        trial = Trial(self.model, engine, self.scheduler, policy, maps, corrections, predictor)
        with attached(engine):
            watch(trial, self._run).check_repeats(self.uncached)
        return trial

    def checked(
        self,
        engine: HookEngine,
        full_steps: tuple[int, ...],
        corrections: Corrections | None,
        predictor: Forecast | Damped,
        check: Callable[[], Any],
    ) -> tuple[float, ...]:
        """How far each sample of `check` strays when it is cached so, the least first."""
        self._tick("checking on other samples")
        if self._unchecked is None:
            self._unchecked = Watcher(self.model, engine.stack, self.scheduler)
            self._unchecked.notes = False
            watch(self._unchecked, check)
        policy = Placed(full_steps, self.uncached.timesteps())
        trial = Trial(self.model, engine, self.scheduler, policy, None, corrections, predictor)
        trial.notes = False
        with attached(engine):
            watch(trial, check).check_repeats(self._unchecked)
        return self.alike(tuple(sorted(strayed(trial.result, self._unchecked.result))))

    def maps(self, engine: HookEngine) -> StepMaps:
        """What the sampler does; learned once, from a run with cached steps from the first one on."""
        if self._maps is None:
            self._maps = StepMaps(self.uncached, self.trial(engine, tuple(range(0, self.steps, LEARNING))))
        return self._maps

    def _cost(self, engine: HookEngine, blank: Call) -> Cost:
        """In blocks where FLOPs cannot be counted."""
        try:
            return Cost(*Costs(self.model).of(engine, blank))
        except Uncounted:
            return Cost(engine.plan.depth, engine.plan.head + engine.plan.tail)


def _what(engine: HookEngine, doing: str) -> str:
    return f"keep ({engine.plan.head}, {engine.plan.tail}): {doing}"
