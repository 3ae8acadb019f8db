"""Where the full steps of a run are best placed, measured on the model's own runs.

Every full step s, with the one before it, s', forecasts the deep feature of the steps after it. On uncached runs the
error that this makes in the model's output is measured for all s' < s < t near each other, one cached step each;
dynamic programming then picks the full steps with the least sum. They come out sparse where features move along, and
dense where they turn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from skipcache.branches import planned
from skipcache.call import Call
from skipcache.flops import count_flops, zero_call
from skipcache.hooks import HookEngine
from skipcache.measure import PREDICTOR, Errors, Measure, Watcher, watch
from skipcache.override import check_plain
from skipcache.plan import Keep
from skipcache.policy import Placed
from skipcache.predictor import Forecast
from skipcache.stack import Stack
from skipcache.target import find_denoisers

GAPS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25)  # from one full step to the next
STRETCH = 3  # the longest gap that is tried, over the mean one


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
            if facts.pop("skipcache") != "calibration":
                raise ValueError("another kind of file")
            lists = {name: tuple(facts[name]) for name in ("keep", "timesteps", "full_steps")}
            return cls(**{**facts, **lists})
        except FileNotFoundError:
            raise ValueError(f"expected a calibration at {path}, found none") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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

    Takes about as long as 10 to 30 uncached runs, and holds as many deep features per lane as twice the longest gap
    between full steps that is tried, which is 3 times the mean gap and at most 25. Raises ValueError where the goal
    cannot be reached, and where the run never calls the model, or differs from one time to the next.
    """
    goals = {"speedup": speedup, "full_steps": full_steps, "max_error": max_error}
    _check_goals(goals)
    if isinstance(run, type) or not callable(run):
        raise TypeError(f"run: expected a callable that samples, got {run!r}")
    model, engine = _engine(target, keep, stack)
    scheduler = getattr(target, "scheduler", None)
    first = watch(Watcher(model, engine.stack, scheduler), run)
    if first.call is None:
        raise ValueError(f"run: it never called {type(model).__name__} with a sample and a timestep")
    steps = first.steps()
    gain = _gain(engine, first.call, steps)
    most = _full_steps(goals, steps, gain)
    mean = steps / most if max_error is None else 4
    gaps = tuple(gap for gap in GAPS if gap <= max(2, math.ceil(STRETCH * mean)))
    measured = Measure(model, engine, scheduler, gaps, on_step, steps * len(first.runs))
    engine.attach()
    try:
        watch(measured, run)
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


def _engine(target: Any, keep: Keep, stack: Stack | None) -> tuple[nn.Module, HookEngine]:
    denoisers = find_denoisers(target, named=stack is not None)
    if len(denoisers) > 1:
        raise ValueError(f"target: expected one denoiser, got {', '.join(denoisers)}; calibrate each by itself")
    (model,) = denoisers.values()
    check_plain(model, "before calibrating it")
    return model, HookEngine(model, *planned(model, keep, stack))


def _gain(engine: HookEngine, blank: Call, steps: int) -> Callable[[int], float]:
    """The FLOP-ideal speedup of a run by its number of full steps."""
    engine.attach()
    try:
        forward = engine.model.__call__
        call = lambda call, step: step(call)  # noqa: E731
        engine.full(forward, zero_call(blank))
        full, cached = count_flops(call, engine, forward, blank, PREDICTOR)
    finally:
        engine.detach()
    return lambda k: steps * full / (k * full + (steps - k) * cached)


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
