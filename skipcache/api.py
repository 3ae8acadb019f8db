"""The public functions: `accelerate`, and what undoes, resets and reports it. Start here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from skipcache.blocks import MARK, override_of
from skipcache.calibration import Calibration
from skipcache.engines.fx import Graphs
from skipcache.policies import Policy
from skipcache.predictors import Predictor
from skipcache.runtime import CachedForward, Report, Request, Settings
from skipcache.stack import Keep, Stack, find_denoisers, modules_in

T = TypeVar("T")


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
) -> T:
    """Sample faster: on most steps run only the two ends of the stack (Skip-Cache, arXiv 2411.17616). In place.

    Give at most one of `interval`, `policy`, `speedup` and `calibration`.

    Args:
        target: a denoiser (nn.Module), or a diffusers pipeline that holds one or several.
        interval: every how many steps all blocks run; 3 where no other choice of steps is given. Raising it caches more
            steps and strays further from the plain model; 1 runs all blocks always.
        keep: units run at each end on a cached step, one int or (head, tail). Raising it costs time and keeps more
            fidelity, but at one speedup leaves fewer full steps. By default 1, and 0 with `speedup`.
        policy: which steps are full: `Interval(...)`, `Schedule(...)`, `Spread(...)`, `Threshold(...)` or your own.
        speedup: block evaluations of an uncached run over those of this one, at least, as long as 10 full steps are
            left (half of the steps, where that is fewer). Full steps are sparse early in a run and dense late, as
            `Spread` says. In a loop without a pipeline's scheduler they stand evenly; `policy=Spread(share,
            steps=...)` keeps more there.
        calibration: of `calibrate`, for this model: full steps, units kept, predictor, and corrections of the output.
            It excludes `keep` and `predictor`.
        predictor: the deep feature of a cached step: `Hold()`, `Delta()`, `Forecast(order)`, `Damped()` or your own. By
            default `Hold()` on stacks with skip branches of their own or grafted "concat" ones, else `Damped()`.
        engine: "fx" runs graphs of the model, without the glue of skipped blocks; "hooks" overrides its blocks; "auto"
            takes fx where it proves right, else hooks, and says why in `report`. Results are equal to the bit.
        compile: True, or a dict of options for torch.compile, to compile both of fx's graphs whole.
        stack: where the blocks are, for a model whose structure does not show it.
        training: what happens while the model is in training mode. "plain": nothing is cached. "ignore" caches under
            torch.no_grad() all the same, for programs that never call `model.eval()` (ComfyUI). Where training mode
            changes what the model computes (dropout above 0, batch norm), nothing is cached and `report` says why.

    Returns `target`. Trajectories, steps and lanes are recognised: no step count is needed, and no reset.

    Raises ValueError or TypeError for anything that cannot work, before the model is touched.

    Example:
        skipcache.accelerate(pipe, interval=3)
        image = pipe(class_labels=[207]).images[0]
        print(skipcache.report(pipe))
    """
    request = Request(interval, policy, speedup, keep, predictor, engine, compile, stack, training=training)
    if calibration is not None:
        request = _calibrated(request, calibration)
    denoisers = find_denoisers(target, named=stack is not None)
    settings = {name: request.settings(model) for name, model in denoisers.items()}
    if calibration is not None:
        for name, model in denoisers.items():
            calibration.check(model, settings[name].plan.depth)
    forwards = [_forward(model, settings[name], name) for name, model in denoisers.items()]
    if "" not in denoisers:
        for forward in forwards:
            forward.serve(target)  # raises before any model is touched
    for forward in forwards:
        if override_of(forward.module, CachedForward) is None:
            forward.put_on()
    return target


def restore(target: T) -> T:
    """Undo `accelerate`, to the last attribute, whatever was wrapped around the model since. Returns `target`.

    Calls that come later run plain, also those through a wrapper that still holds something of skipcache's.

    Raises ValueError where `target` is not accelerated.

    Example:
        skipcache.restore(pipe)
    """
    for forward in _accelerated(target).values():
        forward.take_off()
    return target


def reset(target: T) -> T:
    """Empty the caches and zero the report; the next call begins a trajectory. Returns `target`.

    Raises ValueError where `target` is not accelerated.

    Example:
        skipcache.reset(pipe)
    """
    for forward in _accelerated(target).values():
        forward.reset()
    return target


def report(target: Any) -> Any:
    """What caching did: a `Report`, or a dict of them by component for a pipeline of several denoisers.

    The first look after a run counts FLOPs, which takes about one full and one cached call of the model.

    Raises ValueError where `target` is not accelerated.

    Example:
        print(skipcache.report(pipe).ideal_speedup)
    """
    reports: dict[str, Report] = {name: forward.report() for name, forward in _accelerated(target).items()}
    return reports if len(reports) > 1 else next(iter(reports.values()))


def graphs(target: Any) -> Any:
    """The fx engine's `Graphs`, or a dict of them by component for a pipeline of several denoisers.

    They are those of the signature used last, as torch.fx.Graph, to be read.

    Raises ValueError where fx has served no call yet, with the reason if there is one.

    Example:
        print(skipcache.graphs(model).cached.python_code("self").src)
    """
    found: dict[str, Graphs] = {name: forward.graphs() for name, forward in _accelerated(target).items()}
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
    before = _forwards(target)
    yielded = accelerate(target, interval, **settings)
    ours = [forward for name, forward in _forwards(target).items() if before.get(name) is not forward]
    try:
        yield yielded
    finally:
        for forward in ours:
            forward.take_off()


def _calibrated(request: Request, calibration: Calibration) -> Request:
    """The request that a calibration stands for."""
    if not isinstance(calibration, Calibration):
        raise TypeError(f"calibration: expected what skipcache.calibrate gives, got {calibration!r}")
    names = ("interval", "policy", "speedup", "keep", "predictor")
    given = [name for name in names if getattr(request, name) is not None]
    if given:
        raise ValueError(f"a calibration has its own {', '.join(given)}; leave out one of them")
    return Request(
        policy=calibration.policy,
        keep=calibration.keep,
        predictor=calibration.predictor,
        engine=request.engine,
        compile=request.compile,
        stack=request.stack,
        corrections=calibration.corrections,
        training=request.training,
    )


def _forward(model: Any, settings: Settings, name: str) -> CachedForward:
    """The model's forward under `settings`; one that is there already must have equal ones."""
    found = override_of(model, CachedForward)
    if found is None:
        return CachedForward(model, settings)
    if found.settings != settings:
        where = f" ({name})" if name else ""
        raise ValueError(
            f"{type(model).__name__}{where} is accelerated with other settings, {found.settings}; "
            f"call skipcache.restore first, or accelerate with equal settings"
        )
    return found


def _accelerated(target: Any) -> dict[str, CachedForward]:
    forwards = _forwards(target)
    if not forwards:
        raise ValueError(f"{type(target).__name__} is not accelerated; call skipcache.accelerate first")
    return forwards


def _forwards(target: Any) -> dict[str, CachedForward]:
    """Those of the accelerated models in `target`, by component, under whatever wrappers."""
    found = {
        name: next((inner.__dict__[MARK] for inner in module.modules() if MARK in inner.__dict__), None)
        for name, module in modules_in(target).items()
    }
    return {name: forward for name, forward in found.items() if forward is not None}
