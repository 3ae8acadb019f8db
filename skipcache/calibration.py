"""Where the full steps of a run are best placed, measured on the model's own runs.

Every full step s, with the one before it, s', forecasts the deep feature of the steps after it. On uncached runs the
error that this makes in the model's output is measured for all s' < s < t near each other, one cached step each;
dynamic programming then picks the full steps with the least sum. They come out sparse where features move along, and
dense where they turn.
"""

from __future__ import annotations

import inspect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.branches import branches_of
from skipcache.call import Call, Mark, read_call
from skipcache.flops import Blank, blank_call, count_flops
from skipcache.hooks import HookEngine
from skipcache.override import Override, override_of
from skipcache.plan import Keep, make_plan
from skipcache.policy import Interval, Placed
from skipcache.predictor import Forecast, Prediction
from skipcache.stack import Stack, find_stack
from skipcache.streams import Streams
from skipcache.target import find_denoisers
from skipcache.trajectory import Trajectory
from skipcache.verify import tensors_of

GAPS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25)  # from one full step to the next
STRETCH = 3  # the longest gap that is tried, over the mean one
PREDICTOR = Forecast(1)

Errors = Mapping[tuple[int, int, int], float]  # by (steps from s' to s, 0 where there is no s'; s; t)


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found, and what for. `accelerate(target, calibration=...)` uses it.

    Attributes:
        model, depth: the denoiser's class and the number of units in its stack.
        keep: (head, tail), the units that a cached step runs.
        timesteps: of the run that it was made on; as many as it had steps.
        full_steps: the steps that run all blocks, counted from 0.
        error: mean over the cached steps of the output's relative error, as measured.
        speedup: FLOPs of an uncached run over those of this one.
        scheduler: the class of the pipeline's scheduler, if there was one.
    """

    model: str
    depth: int
    keep: tuple[int, int]
    timesteps: tuple[float, ...]
    full_steps: tuple[int, ...]
    error: float
    speedup: float
    scheduler: str | None = None

    @property
    def policy(self) -> Placed:
        return Placed(self.full_steps, self.timesteps)

    @property
    def predictor(self) -> Forecast:
        return PREDICTOR

    def save(self, path: str | Path) -> Path:
        """As JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"skipcache": "calibration", **asdict(self)}, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Raises ValueError where the file is not one that `save` wrote."""
        try:
            facts = json.loads(Path(path).read_text())
            assert facts.pop("skipcache") == "calibration"
            lists = {name: tuple(facts[name]) for name in ("keep", "timesteps", "full_steps")}
            return cls(**{**facts, **lists})
        except FileNotFoundError:
            raise ValueError(f"expected a calibration at {path}, found none") from None
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{path} is no calibration that skipcache wrote, or is cut off: {error!r}") from error

    def check(self, model: nn.Module, depth: int) -> None:
        """Raises ValueError where `model` is another one than it was made for."""
        name = type(model).__name__
        if (name, depth) != (self.model, self.depth):
            raise ValueError(
                f"calibration: it was made for a {self.model} of {self.depth} units, "
                f"but the model is a {name} of {depth}; calibrate this one"
            )


def calibrate(
    target: Any,
    run: Callable[[], Any],
    *,
    speedup: float | None = None,
    full_steps: int | None = None,
    max_error: float | None = None,
    keep: Keep = 1,
    stack: Stack | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure where the full steps of a run are best placed. `target` is left as it was.

    Args:
        target: a plain denoiser, or a pipeline that holds one.
        run: samples in any way, a pipeline call or a loop, with seeds and prompts that you will not test on. It is
            called twice, and must repeat itself: seed inside of it. One sample of a few images is enough; several runs
            in a row, with as many steps each, count too.
        speedup, full_steps, max_error: what to reach, one of them: FLOPs of an uncached run over those of a cached one;
            the number of full steps; the mean relative error of the output on cached steps.
        keep: units run at each end on a cached step, one int or (head, tail).
        on_step: called with (steps measured, steps in all), e.g. to move a progress bar.

    Takes about as long as 10 to 30 uncached runs, and holds 2 deep features for every gap between full steps that is
    tried: at most 24 per lane. Raises ValueError where the goal cannot be reached, and where the run never calls the
    model, or differs from one time to the next.
    """
    goals = {"speedup": speedup, "full_steps": full_steps, "max_error": max_error}
    _check_goals(goals)
    if isinstance(run, type) or not callable(run):
        raise TypeError(f"run: expected a callable that samples, got {run!r}")
    model, engine = _engine(target, keep, stack)
    scheduler = getattr(target, "scheduler", None)
    first = _watch(_Count(model, engine.stack, scheduler), run)
    if not first.runs:
        raise ValueError(f"run: it never called {type(model).__name__} with a sample and a timestep")
    steps = first.steps()
    gain = _gain(engine, first.call, steps)
    most = _full_steps(goals, steps, gain)
    mean = steps / most if max_error is None else 4
    gaps = tuple(gap for gap in GAPS if gap <= max(2, math.ceil(STRETCH * mean)))
    measured = _Measure(model, engine, scheduler, gaps, on_step, steps * len(first.runs))
    engine.attach()
    try:
        _watch(measured, run)
    finally:
        engine.detach()
    if not measured.begins_like(first):
        raise ValueError("run: two calls of it did not begin with equal inputs; seed inside of it")
    if measured.runs != first.runs:
        raise ValueError("run: it called the model another number of times the second time; it must repeat itself")
    placements = place(measured.errors(), steps, gaps, most)
    if max_error is not None:
        fitting = [k for k in sorted(placements) if placements[k][0] <= max_error * max(steps - k, 1)]
        most = fitting[0] if fitting else steps
    if most not in placements:
        raise ValueError(f"no placement of {most} full steps among {steps} was found; ask for more of them")
    cost, placed = placements[most]
    return Calibration(
        type(model).__name__,
        len(engine.stack.units),
        (engine.plan.head, engine.plan.tail),
        first.timesteps(),
        placed,
        cost / max(steps - most, 1),
        gain(most),
        None if scheduler is None else type(scheduler).__name__,
    )


def place(errors: Errors, steps: int, gaps: tuple[int, ...], most: int) -> dict[int, tuple[float, tuple[int, ...]]]:
    """By number of full steps, up to `most`: the least sum of errors, and the full steps that it takes.

    The state is a full step and the gap before it, on which the forecast rests; every cached step's error depends
    on these and on its own distance.
    """

    def between(gap: int, s: int, end: int) -> float:
        return sum(errors.get((gap, s, t), math.inf) for t in range(s + 1, end))

    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    states: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, (0,))}  # by (s, gap before s)
    for k in range(1, most + 1):
        for (s, gap), (cost, placed) in states.items():
            whole = cost + between(gap, s, steps)
            if whole < best.get(k, (math.inf,))[0]:
                best[k] = whole, placed
        following: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (s, gap), (cost, placed) in states.items():
            for ahead in gaps:
                if s + ahead < steps:
                    so_far = cost + between(gap, s, s + ahead)
                    if so_far < following.get((s + ahead, ahead), (math.inf,))[0]:
                        following[s + ahead, ahead] = so_far, (*placed, s + ahead)
        states = following
    return best


class _Watcher(Override):
    """Stands in for the model's forward while `run` samples, and tells steps and lanes apart."""

    def __init__(self, model: nn.Module, stack: Stack, scheduler: Any, predictor: Any) -> None:
        super().__init__(model)
        self.stack, self.scheduler = stack, scheduler
        self.trajectory = Trajectory(Interval(1), predictor)
        self.runs: list[int] = []  # steps of each
        self._times: list[list[tuple[float, ...]]] = []
        self._first: tuple[Mark, ...] = ()
        self.call: Call | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = tuple(inspect.signature(self.__wrapped__).parameters)
        call = read_call(names, self.stack.sample, self.stack.timestep, args, kwargs)
        if call is None:
            return self.plain(*args, **kwargs)
        visit = self.trajectory.visit(call, [] if self.scheduler is None else [self.scheduler])
        if visit.opens_step:
            if visit.step == 0:
                self.runs.append(0)
                self._times.append([])
            self.runs[-1] += 1
            self._times[-1].append(_values(call.timestep))
        if not self._first:
            held = (call.sample, *call.conditioning)
            self._first = tuple(Mark.of(x.clone() if isinstance(x, Tensor) else x) for x in held)
            self.call = blank_call(call)
        return self.step(call, visit)

    def step(self, call: Call, visit: Any) -> Any:
        return call.run(self.plain)

    def steps(self) -> int:
        if len(set(self.runs)) > 1:
            raise ValueError(f"run: its runs of the model have {self.runs} steps; calibrate on runs of one length")
        return self.runs[0]

    def timesteps(self) -> tuple[float, ...]:
        return tuple(sum(values) / len(values) for values in self._times[0])

    def begins_like(self, other: _Watcher) -> bool:
        same = (mark.equal(theirs.value) for mark, theirs in zip(self._first, other._first))
        return len(self._first) == len(other._first) and all(same)


class _Count(_Watcher):
    def __init__(self, model: nn.Module, stack: Stack, scheduler: Any) -> None:
        super().__init__(model, stack, scheduler, PREDICTOR)


@dataclass(frozen=True)
class _Window:
    """Keeps what `depth` full steps left: R = D - H."""

    depth: int
    residual: bool = True

    def weights(self, step: int, full_steps: Any) -> tuple[float, ...]:
        return ()

    def predict(self, H: Streams | None, kept: Any, weights: Any) -> Streams:
        raise NotImplementedError


class _Measure(_Watcher):
    """At each step, cached steps on all pairs of steps before it that are near enough."""

    def __init__(
        self,
        model: nn.Module,
        engine: HookEngine,
        scheduler: Any,
        gaps: tuple[int, ...],
        on_step: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        super().__init__(model, engine.stack, scheduler, _Window(2 * gaps[-1]))
        self.engine, self.gaps, self.on_step, self.total = engine, gaps, on_step, total
        self._sums: dict[tuple[int, int, int], list[Tensor]] = defaultdict(list)

    def step(self, call: Call, visit: Any) -> Any:
        output, features = self.engine.full(self.plain, call)
        if features is None:
            raise ValueError(f"{type(self.module).__name__} cannot be cached: {self.engine.refusal(call)}")
        truth, lane = _output(output, call), visit.lane
        kept = dict(zip(lane.full_steps, lane.kept))
        for gap, s in self._bases(visit.step, kept):
            steps = [s] if gap == 0 else [s, s - gap]
            weights = PREDICTOR.weights(visit.step, steps)
            prediction = Prediction(PREDICTOR, [kept[i] for i in steps], weights, lane.residual)
            guess = _output(self.engine.cached(self.plain, call, prediction), call)
            error = (guess - truth).float().norm() / truth.float().norm()
            self._sums[gap, s, visit.step].append(error)
        self.trajectory.record(visit, *features)
        if visit.opens_step and self.on_step is not None:
            self.on_step(sum(self.runs), self.total)
        return output

    def _bases(self, t: int, kept: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
        """(gap, s): s with the step a gap before it, or, at the start of a run, with none."""
        for s in range(t - self.gaps[-1] + 1, t):
            if s in kept:
                yield from ((gap, s) for gap in self.gaps if s - gap in kept)
        if 0 in kept and t < self.gaps[-1]:
            yield 0, 0

    def errors(self) -> Errors:
        return {key: torch.stack(errors).mean().item() for key, errors in self._sums.items()}


def _engine(target: Any, keep: Keep, stack: Stack | None) -> tuple[nn.Module, HookEngine]:
    denoisers = find_denoisers(target, named=stack is not None)
    if len(denoisers) > 1:
        raise ValueError(f"target: expected one denoiser, got {', '.join(denoisers)}; calibrate each by itself")
    (model,) = denoisers.values()
    if override_of(model, Override) is not None:
        raise ValueError(f"{type(model).__name__} is accelerated; call skipcache.restore before calibrating it")
    branches = branches_of(model)
    stack = stack or (find_stack(model) if branches is None else branches.stack)
    plan = make_plan(len(stack.units), keep, () if branches is None else branches.layout.pairs)
    return model, HookEngine(model, stack, plan)


def _watch(watcher: Any, run: Callable[[], Any]) -> Any:
    watcher.put_on()
    try:
        with torch.no_grad():
            run()
    finally:
        watcher.take_off()
    return watcher


def _gain(engine: HookEngine, blank: Call, steps: int) -> Callable[[int], float]:
    """The FLOP-ideal speedup of a run by its number of full steps."""
    engine.attach()
    try:
        forward = engine.model.__call__
        call = lambda call, step: step(call)  # noqa: E731
        engine.full(forward, _real(blank))
        full, cached = count_flops(call, engine, forward, blank, PREDICTOR)
    finally:
        engine.detach()
    return lambda k: steps * full / (k * full + (steps - k) * cached)


def _real(blank: Call) -> Call:
    args, kwargs, sample = pytree.tree_map_only(Blank, Blank.zeros, (blank.args, blank.kwargs, blank.sample))
    return replace(blank, args=args, kwargs=kwargs, sample=sample)


def _full_steps(goals: Mapping[str, Any], steps: int, gain: Callable[[int], float]) -> int:
    if goals["full_steps"] is not None:
        if goals["full_steps"] > steps:
            raise ValueError(f"full_steps: expected at most {steps}, the steps of the run, got {goals['full_steps']}")
        return int(goals["full_steps"])
    if goals["speedup"] is not None:
        fitting = [k for k in range(2, steps + 1) if gain(k) >= goals["speedup"]]
        if not fitting:
            raise ValueError(
                f"speedup: {goals['speedup']} is out of reach; a run of {steps} steps with 2 full ones would have "
                f"{gain(2):.2f}"
            )
        return fitting[-1]
    return steps


def _check_goals(goals: Mapping[str, Any]) -> None:
    given = {name: goal for name, goal in goals.items() if goal is not None}
    if len(given) != 1:
        raise ValueError(f"expected one of speedup, full_steps and max_error, got {given or 'none'}")
    ((name, goal),) = given.items()
    whole = name == "full_steps"
    if isinstance(goal, bool) or not isinstance(goal, int if whole else (int, float)):
        raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {goal!r}")
    lowest = {"speedup": 1, "full_steps": 2, "max_error": 0}[name]
    if not goal >= lowest:
        raise ValueError(f"{name}: expected at least {lowest}, got {goal}")


def _output(output: Any, call: Call) -> Tensor:
    """What the sampler goes on with: the first tensor, without learned variances."""
    found = next(iter(tensors_of(output)))
    if found.ndim == call.sample.ndim > 1 and found.shape[1] > call.sample.shape[1]:
        return found[:, : call.sample.shape[1]]
    return found


def _values(timestep: Any) -> tuple[float, ...]:
    return tuple(timestep.detach().flatten().float().tolist()) if isinstance(timestep, Tensor) else (float(timestep),)
