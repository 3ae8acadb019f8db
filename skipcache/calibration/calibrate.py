"""`calibrate`: which units to keep, where the full steps stand and what to add to the output, by trial.

Each full step s, with the full step s' before it, forecasts the deep feature of the steps after it. On an uncached run
the error that this makes in the output is measured for s' < s < t near each other. Dynamic programming picks the full
steps with the least sum of errors. That placement and a few that need no measurement are then run, with corrections
fitted on the way, and so is what `speedup=` does, with `Damped` and without corrections. The placement whose last state
is nearest to the uncached run's is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from skipcache.blocks import check_plain
from skipcache.branches import planned
from skipcache.calibration.calibration import Calibration
from skipcache.calibration.runs import Runs
from skipcache.calibration.search import Goal, Search
from skipcache.engines.hooks import HookEngine
from skipcache.stack import Keep, Stack, find_denoisers

KEEPS: tuple[Keep, ...] = (0, 1)  # what keep="auto" tries


def calibrate(
    target: Any,
    run: Callable[[], Any],
    *,
    speedup: float | None = None,
    full_steps: int | None = None,
    max_error: float | None = None,
    keep: Keep | str = "auto",
    correct: bool = True,
    check: Callable[[], Any] | None = None,
    level: float = 0.9,
    stack: Stack | None = None,
    progress: bool = True,
) -> Calibration:
    """Find by trial runs how to spend a run's compute best. `target` is left as it was.

    Args:
        target: a plain denoiser, or a pipeline that holds one.
        run: samples in any way, a pipeline call or a loop, with seeds and prompts that you will not test on. It is
            called about eight times and must repeat itself, so seed inside of it. One call of 4 to 16 images is enough;
            several runs in a row, with as many steps each, count too.
        speedup: a goal: FLOPs of an uncached run over those of a cached one, at least. Give one of three goals.
        full_steps: a goal: the number of full steps.
        max_error: a goal: how far the last state may be from the uncached run's, over its size, at most. With `check`
            it is what the share `level` of new samples stays below.
        keep: units run at each end on a cached step, one int or (head, tail); "auto" tries 0 and 1.
        correct: fit scalars that are added to the output. False leaves the output of full steps as it is.
        check: samples as `run` does, with other seeds and prompts, and returns its samples: a tensor or a pipeline's
            output. It is run uncached once, and once as calibrated (after each trial with `max_error`). Then
            `found.bound(0.9)` promises an error. 100 samples or more, in as many calls as you like.
        level: the share of new samples that `max_error` is for.
        stack: where the blocks are, for a model whose structure does not show it.
        progress: show a bar.

    Takes about as long as 7 uncached runs. Holds at most 50 deep features per lane, and three pairs of a sample and
    an output per step of the run.

    Returns a `Calibration`, to be passed to `accelerate` or saved. Raises ValueError where the goal cannot be reached,
    where the model cannot be cached, and where the run never calls the model or differs from one time to the next.

    Example:
        seeded = lambda: torch.Generator().manual_seed(7)
        found = skipcache.calibrate(pipe, lambda: pipe(prompts, generator=seeded()), speedup=2.2)
        skipcache.accelerate(pipe, calibration=found)
    """
    goal = _read_goal({"speedup": speedup, "full_steps": full_steps, "max_error": max_error})
    for name, given in {"run": run, "check": check}.items():
        if isinstance(given, type) or not (callable(given) or (name == "check" and given is None)):
            raise TypeError(f"{name}: expected a callable that samples, got {given!r}")
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    model = _plain_model(target, stack)
    engines = [HookEngine(model, *planned(model, ends, stack)) for ends in _keeps(model, keep, stack)]
    scheduler = getattr(target, "scheduler", None)
    with _bar(progress) as tick:
        search = Search(Runs(model, engines, scheduler, run, tick), goal, correct, check, level)
        found = search.found()
    if found is None:
        raise ValueError(
            f"{goal.name}: {goal.value} is out of reach; a run of {search.runs.steps} steps with 2 full ones would "
            f"have a speedup of {search.most:.2f}"
        )
    return found


def _plain_model(target: Any, stack: Stack | None) -> nn.Module:
    denoisers = find_denoisers(target, named=stack is not None)
    if len(denoisers) > 1:
        raise ValueError(f"target: expected one denoiser, got {', '.join(denoisers)}; calibrate each by itself")
    (model,) = denoisers.values()
    check_plain(model, "before calibrating it")
    return model


def _keeps(model: nn.Module, keep: Keep | str, stack: Stack | None) -> list[Keep]:
    """What to try: a stack with skip branches, or too shallow a one, does not take all."""
    if isinstance(keep, str):
        if keep != "auto":
            raise ValueError(f"keep: expected 'auto', an int or (head, tail), got {keep!r}")
        fitting = [ends for ends in KEEPS if _fits(model, ends, stack)]
        return fitting or [1]
    return [keep]


def _fits(model: nn.Module, keep: Keep, stack: Stack | None) -> bool:
    try:
        planned(model, keep, stack)
    except ValueError:
        return False
    return True


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("calibrate: {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not shown) as bar:
        task = bar.add_task("begins", total=None)
        yield lambda what: bar.update(task, description=what)


def _read_goal(goals: Mapping[str, Any]) -> Goal:
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
    return Goal(name, goal)
