"""The public functions: `accelerate`, and what undoes, resets and reports it. Start here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from skipcache.blocks import override_of
from skipcache.calibration import Calibration
from skipcache.engines.fx import Graphs
from skipcache.policies import Policy
from skipcache.predictors import Predictor
from skipcache.runtime import (
    CachedForward,
    Report,
    Request,
    Run,
    accelerated_in,
    forward_for,
    forwards_in,
    named_run,
)
from skipcache.stack import Keep, Stack, find_denoisers

T = TypeVar("T")
CALIBRATED = ("interval", "policy", "speedup", "keep", "predictor", "steps")  # what a calibration decides


def accelerate(
    target: T,
    interval: int | None = None,
    *,
    keep: Keep | None = None,
    policy: Policy | None = None,
    speedup: float | None = None,
    calibration: Calibration | None = None,
    predictor: Predictor | None = None,
    engine: str = "auto",
    compile: bool | dict[str, Any] = False,
    stack: Stack | None = None,
    training: str = "plain",
    cache_limit: int | None = None,
    steps: int | None = None,
    agree: bool | str = False,
) -> T:
    """Sample faster: on most steps run only the two ends of the stack (Skip-Cache, arXiv 2411.17616). In place.

    Give at most one of `interval`, `policy`, `speedup` and `calibration`.

    Args:
        target: a denoiser (nn.Module), or a diffusers pipeline that holds one or several.
        interval: on a pipeline one step in so many is full, at least 7 of them, placed as `Spread` says. On a denoiser
            they stand evenly (`Interval`), unless `steps` is given. 3 where no other choice of steps is given. Raising
            it caches more steps and strays further from the plain model; 1 runs all blocks always.
        keep: units run at each end on a cached step, one int or (head, tail). Raising it costs time and keeps more
            fidelity, but at one speedup leaves fewer full steps. By default 0 with `Spread`, else 1, as with branches.
        policy: which steps are full: `Interval(...)`, `Schedule(...)`, `Spread(...)`, `Threshold(...)` or your own.
        speedup: block evaluations of an uncached run over those of this one, at least; where that would leave fewer
            than 7 full steps a warning says what it is. Full steps are placed as `Spread` says.
        calibration: of `calibrate`, for this model: full steps, units kept, predictor, and corrections of the output.
            It excludes `keep` and `predictor`.
        predictor: the deep feature of a cached step: `Hold()`, `Delta()`, `Forecast(order)`, `Damped()` or your own. By
            default `Hold()` on stacks with skip branches of their own or grafted "concat" ones, else `Damped()`.
        engine: "fx" runs graphs of the model, without the glue of skipped blocks; "hooks" overrides its blocks; "auto"
            takes fx where it proves right, else hooks, and says why in `report`. Results are equal to the bit.
        compile: True, or a dict of options for torch.compile, to compile both of fx's graphs whole.
        stack: where the blocks are, for a model whose structure does not show it.
        training: what happens while the model is in training mode. "plain": nothing is cached. "ignore" caches under
            torch.no_grad() all the same, for programs that never call `model.eval()` (ComfyUI), unless training mode
            changes what the model computes (dropout above 0, batch norm).
        cache_limit: bytes that cached features may hold, those of all runs together; None: no limit. Past it the run
            that was called longest ago loses its features first, and its next step is full.
        steps: of a run, where no pipeline's scheduler tells: for `interval` and `speedup` in a loop of your own.
        agree: processes with which full steps are agreed on, beside those that the model is seen to be sharded over:
            True is the default process group, a string a dimension of a device mesh.

    Returns `target`. Trajectories, steps and lanes are recognised: no reset is needed.
    Raises ValueError or TypeError for anything that cannot work, before the model is touched.

    Example:
        skipcache.accelerate(pipe, interval=3)
        image = pipe(class_labels=[207]).images[0]
        print(skipcache.report(pipe))
    """
    own = (engine, compile, stack, None, training, cache_limit, steps, agree)
    request = Request(interval, policy, speedup, keep, predictor, *own)
    if calibration is not None:
        request = _calibrated(request, calibration)
    denoisers = find_denoisers(target, named=stack is not None)
    in_pipeline = "" not in denoisers
    settings = {name: request.settings(model, in_pipeline) for name, model in denoisers.items()}
    if calibration is not None:
        for name, model in denoisers.items():
            calibration.check(model, settings[name].plan.depth)
    forwards = [forward_for(model, settings[name], name) for name, model in denoisers.items()]
    if in_pipeline:
        for forward in forwards:
            forward.serve(target)  # raises before any model is touched
    for forward in forwards:
        if override_of(forward.module, CachedForward) is None:
            forward.put_on()
    return target


def restore(target: T) -> T:
    """Undo `accelerate`, to the last attribute, whatever was wrapped around the model since. Returns `target`.

    Later calls run plain, also through a wrapper that still holds it. Raises ValueError where it is not accelerated.

    Example:
        skipcache.restore(pipe)
    """
    for forward in accelerated_in(target).values():
        forward.take_off()
    return target


def reset(target: T) -> T:
    """Empty the caches and zero the report; the next call begins a trajectory. Returns `target`.

    Raises ValueError where `target` is not accelerated.
    """
    for forward in accelerated_in(target).values():
        forward.reset()
    return target


def report(target: Any, *, flops: bool = True) -> Any:
    """What caching did: a `Report`, or a dict of them by component for a pipeline of several denoisers.

    FLOPs are counted at the first look, on a copy without weights; the model is not run. `flops=False` counts blocks.

    Raises ValueError where `target` is not accelerated.

    Example:
        print(skipcache.report(pipe).ideal_speedup)
    """
    reports: dict[str, Report] = {name: forward.report(flops=flops) for name, forward in accelerated_in(target).items()}
    return reports if len(reports) > 1 else next(iter(reports.values()))


def run(
    target: Any,
    name: str,
    timesteps: Sequence[float] | None = None,
    *,
    times: Sequence[float] | None = None,
    interval: int | None = None,
    policy: Policy | None = None,
    speedup: float | None = None,
) -> Run:
    """The calls inside of `with skipcache.run(...)` are of one sampling run, by name: for servers and own loops.

    It is taken as said, over threads and asyncio tasks; a block for each step will do, and runs may take turns.

    Args:
        target: what was accelerated.
        name: the same name is the same run, until `end()`, or until its timesteps begin again.
        timesteps: all of the run's, in their order, as the model is given them: a tensor or a list, (steps,).
        times: flow time sigma / (alpha + sigma) of each, 1 for noise, for `speedup`; by default that of DDPM.
        interval, policy, speedup: for this run alone, one at most; `interval=1` switches caching off for it.

    Returns a `Run`: `step(index, lane=None)` names the step and lane of the calls inside, `report()` is of this run
    alone, `end()` frees what it holds.

    Raises ValueError or TypeError for anything that cannot be, and where `target` is not accelerated.

    Example:
        for i, t in enumerate(timesteps):
            with skipcache.run(model, "request-17", timesteps, interval=2):
                noise = model(x, t, text)
    """
    return named_run(accelerated_in(target), name, timesteps, interval, policy, speedup, times)


def release(target: T) -> T:
    """Free all cached features, and keep programs and the report: for a model that idles. Returns `target`.

    The next step of each run is full. Raises ValueError where `target` is not accelerated.
    """
    for forward in accelerated_in(target).values():
        forward.runs.release()
    return target


@contextmanager
def suspended(target: T) -> Iterator[T]:
    """Inside of the `with`, all calls run plain and leave no trace. Programs and features are kept.

    Raises ValueError where `target` is not accelerated.
    """
    forwards = [forward for forward in accelerated_in(target).values() if not forward.suspended]
    for forward in forwards:
        forward.suspended = True
    try:
        yield target
    finally:
        for forward in forwards:
            forward.suspended = False


def graphs(target: Any) -> Any:
    """The fx engine's `Graphs`, or a dict of them by component for a pipeline of several denoisers.

    They are those of the signature used last, as torch.fx.Graph, to be read.

    Raises ValueError where fx has served no call yet, with the reason if there is one.

    Example:
        print(skipcache.graphs(model).cached.python_code("self").src)
    """
    found: dict[str, Graphs] = {name: forward.graphs() for name, forward in accelerated_in(target).items()}
    return found if len(found) > 1 else next(iter(found.values()))


@contextmanager
def accelerated(target: T, interval: int | None = None, **settings: Any) -> Iterator[T]:
    """`accelerate` for the length of a `with` block; `restore` at its end, whatever happened in it.

    A model that was accelerated before, with equal settings, stays so.

    Args:
        target, interval, settings: those of `accelerate`.

    Example:
        with skipcache.accelerated(pipe, speedup=2):
            image = pipe(prompt).images[0]
    """
    before = forwards_in(target)
    yielded = accelerate(target, interval, **settings)
    ours = [forward for name, forward in forwards_in(target).items() if before.get(name) is not forward]
    try:
        yield yielded
    finally:
        for forward in ours:
            forward.take_off()


def _calibrated(request: Request, calibration: Calibration) -> Request:
    """The request that a calibration stands for."""
    if not isinstance(calibration, Calibration):
        raise TypeError(f"calibration: expected what skipcache.calibrate gives, got {calibration!r}")
    given = [name for name in CALIBRATED if getattr(request, name) is not None]
    if given:
        raise ValueError(f"a calibration has its own {', '.join(given)}; leave out one of them")
    own = {name: getattr(calibration, name) for name in ("policy", "keep", "predictor", "corrections")}
    return replace(request, **own)
