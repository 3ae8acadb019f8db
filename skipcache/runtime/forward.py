"""The accelerated `forward` of a denoiser: places each call in its trajectory, has the engine run it, counts it."""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks.override import Override
from skipcache.blocks.snapshot import Moment
from skipcache.engines.fx.engine import FxEngine
from skipcache.engines.fx.programs import Features, Graphs, Options
from skipcache.engines.hooks.engine import HookEngine
from skipcache.policies.base import Policy, note_of, reads_drift
from skipcache.policies.placed import Placed
from skipcache.predictors.base import Predictor
from skipcache.runtime.corrections import Corrections, correctable, main_output, with_main_output
from skipcache.runtime.flops import blank_call, count_flops
from skipcache.runtime.report import Counters, Report
from skipcache.stack.plan import Plan
from skipcache.stack.stack import Stack
from skipcache.trajectory.call import WRITES, Call, read_call, versions
from skipcache.trajectory.lane_names import NamedLanes
from skipcache.trajectory.trajectory import Trajectory, Visit

MAX_OUTLINES = 16

Engine = FxEngine | HookEngine


@dataclass(frozen=True)
class Settings:
    """All that `accelerate` decides for one denoiser. Equal settings may share a model."""

    stack: Stack
    plan: Plan
    policy: Policy
    predictor: Predictor
    engine: str = "auto"
    compile: Options = False
    corrections: Corrections | None = None


def _engines(model: nn.Module, settings: Settings) -> list[Engine]:
    """In the order in which they are tried."""
    engines: list[Engine] = []
    if settings.engine in ("auto", "fx"):
        engines.append(FxEngine(model, settings.stack, settings.plan, settings.compile))
    if settings.engine in ("auto", "hooks"):
        engines.append(HookEngine(model, settings.stack, settings.plan))
    return engines


class CachedForward(Override):
    """Stands in for the denoiser's `forward`. A copy of the model has one of its own, with an empty cache."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model)
        self.settings = settings
        self.engines = _engines(model, settings)
        self.names = tuple(inspect.signature(self.__wrapped__).parameters)
        self.lanes = NamedLanes(model)
        self._pipelines: list[weakref.ref[Any]] = []
        self._ignored: tuple[Tensor, ...] = ()
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("module", "previous", "settings", "engines", "names", "lanes")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pipelines=[], _ignored=())
        self.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedForward:
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__setstate__({name: deepcopy(value, memo) for name, value in self.__getstate__().items()})
        for pipeline in self._alive():
            if id(pipeline) in memo:
                copy.serve(memo[id(pipeline)])
        return copy

    # putting on and taking off

    def serve(self, pipeline: Any) -> None:
        """Read `pipeline`'s scheduler too, anew at each call, since users replace it."""
        if not any(known is pipeline for known in self._alive()):
            self._pipelines = [*self._pipelines, weakref.ref(pipeline)]
            timesteps = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
            self._ignored = (*self._ignored, timesteps) if isinstance(timesteps, Tensor) else self._ignored

    def put_on(self) -> None:
        super().put_on()
        self.lanes.put_on()

    def take_off(self) -> None:
        self.lanes.take_off()
        for engine in self.engines:
            engine.detach()
        super().take_off()

    def reset(self) -> None:
        """Empty caches and counters on all threads: whatever comes next begins a trajectory."""
        self._local = threading.local()
        self._trajectories: weakref.WeakSet[Trajectory] = weakref.WeakSet()
        self._outlines: OrderedDict[Any, Call] = OrderedDict()
        self.counters = Counters()
        self._warned = False

    # a call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.plain(*args, **kwargs)
        instead = getattr(self._local, "instead", None)
        if instead is not None:
            return instead(args, kwargs)
        call = self._read(args, kwargs)
        trajectory = self._trajectory()
        if call is None:
            trajectory.drop()
            return self.plain(*args, **kwargs)
        try:
            visit = trajectory.visit(call, self._schedulers())
            corrections = self._corrections(visit)
            output = self._run(call, trajectory, visit, corrections)
            return output if corrections is None else self._corrected(output, call, visit, corrections)
        except BaseException:
            # A step that ended half-way leaves nothing: the next call begins a trajectory.
            trajectory.drop()
            raise

    def _run(self, call: Call, trajectory: Trajectory, visit: Visit, corrections: Corrections | None) -> Any:
        if not visit.full:
            slope = 1.0 if corrections is None else corrections.slope(visit.step)
            prediction = visit.lane.predict(visit.step, self.settings.predictor, slope)
            for engine in self.engines:
                saved = engine.saved(call, prediction)
                if saved is not None:
                    self._count(call, visit, saved)
                    return engine.cached(self.plain, call, prediction)
        self._count(call, visit, saved=0)
        if not self.settings.policy.caches:
            return self.plain(*call.args, **call.kwargs)
        output, features = self._full(call)
        if features is not None:
            trajectory.record(visit, *features)
            if features[0] is None and reads_drift(self.settings.policy):
                self._say("the policy follows what enters the first block, and that cannot be told apart; keep=1 helps")
        return output

    def _full(self, call: Call) -> tuple[Any, Features | None]:
        """A full step by the first engine that can serve this signature; those before it say why they cannot."""
        outputs: list[Any] = []
        before, moment = versions(call), None
        for engine in self.engines:
            if engine.refusal(call) is None:
                if moment is not None:
                    # The model has run already for an engine that found only then that it cannot serve.
                    moment.put_back()
                known = engine.knows(call) or engine is self.engines[-1]
                moment = None if known else Moment(call.sample.device, self.module)
                engine.attach()
                output, features = engine.full(self.plain, call)
                outputs = [output]
                if features is not None:
                    self.counters.engines[engine.name] = None
                    return output, features
            self._refused(engine, engine.refusal(call) or "")
            if outputs and versions(call) != before:
                self._say(WRITES)
                break
        return outputs[0] if outputs else call.run(self.plain), None

    def _corrections(self, visit: Visit) -> Corrections | None:
        """The calibration's, where this run is like the calibrated one."""
        policy, corrections = self.settings.policy, self.settings.corrections
        mismatch = policy.mismatch(visit.time) if isinstance(policy, Placed) else None
        if mismatch is None:
            return corrections
        dropped = "" if corrections is None else ", without corrections"
        self.counters.because(f"calibration: {mismatch}; full steps are placed by timestep{dropped}")
        return None

    def _corrected(self, output: Any, call: Call, visit: Visit, corrections: Corrections) -> Any:
        if not correctable(output, call):
            return output
        e = main_output(output, call)
        assert e is not None
        better = corrections.apply(visit.step, call.sample, e, visit.lane.outputs_before(visit.step))
        visit.lane.remember(visit.step, e)
        return output if better is e else with_main_output(output, call, better)

    def _refused(self, engine: Engine, reason: str) -> None:
        if self.settings.engine == "fx":
            raise RuntimeError(f"engine='fx' cannot serve {type(self.module).__name__}: {reason}; use engine='auto'")
        if engine is self.engines[-1]:
            self._say(reason)
        else:
            self.counters.because(f"{engine.name}: {reason}")

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """The call, or None where it must run as if nothing were there."""
        reason = None
        if self.module.training:
            reason = "the model is in training mode; call model.eval() to sample"
        elif torch.is_grad_enabled() and self._records_gradients(args, kwargs):
            reason = "autograd is recording; sample under torch.no_grad() or torch.inference_mode()"
        if reason is None:
            stack = self.settings.stack
            call = read_call(self.names, stack.sample, stack.timestep, args, kwargs, self.lanes.name)
            if call is not None:
                return call
            reason = f"a call had no tensor {stack.sample!r} or no {stack.timestep!r}"
        self._say(reason)
        return None

    def _records_gradients(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        leaves = pytree.tree_leaves((args, kwargs))
        return any(p.requires_grad for p in self.module.parameters()) or any(
            isinstance(x, Tensor) and x.requires_grad for x in leaves
        )

    def _trajectory(self) -> Trajectory:
        """The calling thread's own."""
        found = getattr(self._local, "trajectory", None)
        if found is None:
            found = Trajectory(self.settings.policy, self.settings.predictor, self._ignored)
            self._local.trajectory = found
            self._trajectories.add(found)
        return found

    def _schedulers(self) -> list[Any]:
        return [s for s in (getattr(p, "scheduler", None) for p in self._alive()) if s is not None]

    def _alive(self) -> list[Any]:
        return [p for p in (ref() for ref in self._pipelines) if p is not None]

    def _say(self, reason: str) -> None:
        """Note why nothing is cached, and warn, once, where that is all that has ever happened."""
        self.counters.because(reason)
        if not self._warned and not self.counters.cached_steps:
            self._warned = True
            warnings.warn(f"skipcache caches nothing: {reason}", UserWarning, stacklevel=2)

    # counting

    def _count(self, call: Call, visit: Visit, saved: int) -> None:
        depth, full = len(self.settings.stack.blocks), not saved
        if visit.opens_step:
            said = note_of(self.settings.policy, visit.time) if visit.step == 0 else None
            if said is not None:
                self.counters.because(said)
            self.counters.step(visit.step, full)
            self._local.step_is_full = full
        elif full and not self._local.step_is_full:
            self.counters.widen(visit.step)
            self._local.step_is_full = True
        self.counters.call(call.key, full, depth - saved, saved)
        if call.key not in self._outlines:
            self._outlines[call.key] = blank_call(call)
            if len(self._outlines) > MAX_OUTLINES:
                self._outlines.popitem(last=False)

    def report(self) -> Report:
        counters = self.counters
        return Report(
            counters.full_steps,
            counters.cached_steps,
            counters.blocks_run,
            counters.blocks_saved,
            self._ideal_speedup(),
            sum(x.numel() * x.element_size() for t in list(self._trajectories) for x in t.tensors),
            " and ".join(counters.engines) or self.engines[0].name,
            counters.full_at,
            tuple(counters.reasons),
        )

    def graphs(self) -> Graphs:
        found = next((e.graphs() for e in self.engines if isinstance(e, FxEngine)), None)
        if found is None:
            said = [reason for reason in self.counters.reasons if reason.startswith("fx: ")]
            if self.settings.engine == "hooks":
                said = ["it is accelerated with engine='hooks'"]
            why = "; ".join(said) or "call the model once first, under torch.no_grad()"
            raise ValueError(f"{type(self.module).__name__} has no graphs yet: {why}")
        return found

    def _run_instead(self, call: Call, step: Callable[[Call], Any]) -> Any:
        """The model from outside, with all that is wrapped around it, but `step` at its heart; not counted."""
        self._local.instead = lambda args, kwargs: step(replace(call, args=args, kwargs=kwargs))
        try:
            return call.run(self.module)
        finally:
            self._local.instead = None

    def _ideal_speedup(self) -> float | None:
        calls = dict(self.counters.calls)
        if not any(full is False for _, full in calls):
            return 1.0 if calls else None
        plain = made = 0
        for key, blank in list(self._outlines.items()):
            engine = next((e for e in self.engines if e.knows(blank)), self.engines[-1])
            try:
                follows = reads_drift(self.settings.policy)
                full, cached = count_flops(
                    self._run_instead, engine, self.plain, blank, self.settings.predictor, follows
                )
            except Exception:
                # The model may have changed since, or run what the counter cannot follow (a kernel of others').
                continue
            plain += full * (calls.get((key, True), 0) + calls.get((key, False), 0))
            made += full * calls.get((key, True), 0) + cached * calls.get((key, False), 0)
        return plain / made if made else None
