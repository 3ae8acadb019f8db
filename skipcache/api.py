"""The public functions: `accelerate` and what undoes, resets and reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from skipcache.blocks.override import override_of
from skipcache.branches.graft import branches_of, planned, stack_of
from skipcache.calibration.calibration import Calibration
from skipcache.engines.fx.programs import Graphs
from skipcache.policies.base import Interval, Policy
from skipcache.policies.spread import Spread
from skipcache.predictors.base import Damped, Hold, Predictor
from skipcache.runtime.forward import CachedForward, Settings
from skipcache.runtime.report import Report
from skipcache.stack.denoisers import find_denoisers
from skipcache.stack.plan import Keep, Plan
from skipcache.stack.stack import Stack

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
) -> T:
    """Sample faster: on most steps run only the two ends of the stack (Skip-Cache, arXiv 2411.17616). In place.

    Args:
        target: a denoiser (nn.Module), or a diffusers pipeline that holds one or several.
        interval: every how many steps all blocks run; 3 where no other choice of steps is given. Raising it caches more
            steps and strays further from the plain model; 1 runs all blocks always.
        speedup: block evaluations of an uncached run over those of this one, at least, as far as 10 full steps are left
            (half of the steps, where that is fewer). Full steps are sparse early in a run and dense late, as `Spread`
            says; in a loop without a pipeline's scheduler they stand evenly, and `policy=Spread(share, steps=...)`
            keeps more. Give at most one of `interval`, `speedup` and `policy`.
        keep: units run at each end on a cached step, one int or (head, tail); where none is given 0 with `speedup`,
            else 1. Raising it costs time and keeps more, but at one speedup leaves fewer full steps.
        calibration: of `calibrate`, for this model: the full steps, the units kept, the predictor and corrections of
            the output; excludes `interval`, `policy`, `speedup`, `keep` and `predictor`.
        policy: which steps are full: `Interval(...)`, `Schedule(...)`, `Spread(...)`, `Threshold(...)`.
        predictor: the deep feature of a cached step: `Hold()`, `Delta()`, `Forecast(order)`, `Damped()`; where none is
            given `Hold()` with branches that carry H, else `Damped()`.
        engine: "fx" runs graphs of the model, without the glue of skipped blocks; "hooks" overrides its blocks; "auto"
            takes fx where it proves right, else hooks, and says why in `report`. Results are equal to the bit.
        compile: True, or a dict of options for torch.compile, to compile both of fx's graphs whole.
        stack: where the blocks are, for a model whose structure does not show it.

    Returns `target`. Trajectories, steps and lanes are recognised; no step count is asked for, nothing need be reset.
    Raises ValueError or TypeError for anything that cannot work, before the model is touched.
    """
    if calibration is not None:
        others = {"interval": interval, "policy": policy, "speedup": speedup, "keep": keep, "predictor": predictor}
        _check_calibration(calibration, **others)
        policy, keep, predictor = calibration.policy, calibration.keep, calibration.predictor
    choose = _choice(interval, policy, speedup)
    _check(predictor, engine, compile)
    denoisers = find_denoisers(target, named=stack is not None)
    if keep is None:
        keep = 1 if speedup is None else 0
        _check_unskipped(denoisers.values(), stack, speedup)
    chosen: dict[str, Any] = {"engine": engine, "compile": compile}
    chosen["corrections"] = None if calibration is None else calibration.corrections
    planned = {name: _settings(model, keep, predictor, stack, choose, **chosen) for name, model in denoisers.items()}
    if calibration is not None:
        for name, model in denoisers.items():
            calibration.check(model, planned[name].plan.depth)
    forwards = [_forward(model, planned[name], name) for name, model in denoisers.items()]
    for forward in forwards:
        if override_of(forward.module, CachedForward) is None:
            forward.put_on()
        if forward.module is not target and "" not in denoisers:
            forward.serve(target)
    return target


def restore(target: T) -> T:
    """Undo `accelerate`, to the last attribute. Raises ValueError where `target` is not accelerated."""
    for forward in _accelerated(target).values():
        forward.take_off()
    return target


def reset(target: T) -> T:
    """Empty the caches and zero the report; the next call begins a trajectory."""
    for forward in _accelerated(target).values():
        forward.reset()
    return target


def report(target: Any) -> Any:
    """What caching did: a `Report`, or a dict of them by component for a pipeline of several denoisers.

    The first look after a run measures FLOPs, which takes about one full and one cached call of the model.
    """
    reports: dict[str, Report] = {name: forward.report() for name, forward in _accelerated(target).items()}
    return reports if len(reports) > 1 else next(iter(reports.values()))


def graphs(target: Any) -> Any:
    """The fx engine's `Graphs`, or a dict of them by component for a pipeline of several denoisers.

    They are those of the signature traced last, as torch.fx.Graph, to read: `graphs(model).cached.python_code("self")`.
    Raises ValueError where fx has served no call yet, with the reason if there is one.
    """
    found: dict[str, Graphs] = {name: forward.graphs() for name, forward in _accelerated(target).items()}
    return found if len(found) > 1 else next(iter(found.values()))


@contextmanager
def accelerated(target: T, interval: int | None = None, **settings: Any) -> Iterator[T]:
    """`accelerate` for the length of a `with` block."""
    yielded = accelerate(target, interval, **settings)
    try:
        yield yielded
    finally:
        restore(target)


def _choice(interval: int | None, policy: Policy | None, speedup: float | None) -> Callable[[Plan], Policy]:
    """The policy for a stack that is cut by a plan."""
    given = {"interval": interval, "policy": policy, "speedup": speedup}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} exclude each other; give one")
    if speedup is not None:
        goal = speedup
        return lambda plan: Spread.reaching(goal, plan.head + plan.tail, plan.depth)
    chosen = Interval(3 if interval is None else interval) if policy is None else policy
    if isinstance(chosen, type) or not isinstance(chosen, Policy):
        raise TypeError(f"policy: expected Interval(...), Schedule(...) or another Policy, got {policy!r}")
    return lambda plan: chosen


def _check_calibration(calibration: Calibration, **others: Any) -> None:
    if not isinstance(calibration, Calibration):
        raise TypeError(f"calibration: expected what skipcache.calibrate gives, got {calibration!r}")
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(f"a calibration has its own {', '.join(given)}; leave out one of them")


def _check_unskipped(denoisers: Iterable[Any], stack: Stack | None, speedup: float | None) -> None:
    """With no blocks on cached steps `speedup` beats fewer sampler steps; skip branches need some there."""
    for model in denoisers if speedup is not None else ():
        if branches_of(model) is not None or (stack or stack_of(model)).native_skips:
            raise ValueError(
                f"speedup: {type(model).__name__} has skip branches, with which it may keep less than fewer sampler "
                f"steps; calibrate, give interval=, or insist with keep=1"
            )


def _check(predictor: Predictor | None, engine: str, compile: Any) -> None:
    if predictor is not None and (isinstance(predictor, type) or not isinstance(predictor, Predictor)):
        raise TypeError(
            f"predictor: expected Hold(), Delta(), Forecast(...), Damped() or another Predictor, got {predictor!r}"
        )
    if engine not in ("auto", "fx", "hooks"):
        raise ValueError(f"engine: expected 'auto', 'fx' or 'hooks', got {engine!r}")
    if not isinstance(compile, (bool, dict)):
        raise TypeError(f"compile: expected True, False or a dict of options for torch.compile, got {compile!r}")
    if compile is not False and engine == "hooks":
        raise ValueError("compile: expected engine 'auto' or 'fx', got 'hooks', which has no graphs to compile")


def _settings(
    model: Any,
    keep: Keep,
    predictor: Predictor | None,
    stack: Stack | None,
    choose: Callable[[Plan], Policy],
    **chosen: Any,
) -> Settings:
    stack, plan = planned(model, keep, stack)
    branches = branches_of(model)
    holds = stack.reuse == "hold" or (branches is not None and branches.layout.fuse == "concat")
    predictor = predictor or (Hold() if holds else Damped())
    return Settings(stack=stack, plan=plan, policy=choose(plan), predictor=predictor, **chosen)


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
    found = {name: override_of(model, CachedForward) for name, model in find_denoisers(target, named=True).items()}
    forwards = {name: forward for name, forward in found.items() if forward is not None}
    if not forwards:
        raise ValueError(f"{type(target).__name__} is not accelerated; call skipcache.accelerate first")
    return forwards
