"""The accelerated `forward` of a denoiser: which step is this call, run it, count what was done."""

from __future__ import annotations

import warnings
import weakref
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from skipcache.blocks import MARK, REPLICATE, ModelState, Override, override_of
from skipcache.engines import Engine, Order, StepResult
from skipcache.engines.fx import Graphs
from skipcache.engines.graphs import graphs_of
from skipcache.policies import mismatch_of, reads_drift
from skipcache.runtime.corrections import Corrections
from skipcache.runtime.ledger import Ledger
from skipcache.runtime.pipelines import Pipelines
from skipcache.runtime.plain import BEGINNINGS, COMPILED, UNSEEN, TrainingMode, no_replicas, unnoticed, why_plain
from skipcache.runtime.report import Report
from skipcache.runtime.settings import Settings, make_engines, of_inner
from skipcache.runtime.step import StepRunner
from skipcache.stack import argument_names
from skipcache.trajectory import MAX_RUNS, Call, CallReader, NamedLanes, Repeat, Runs, Sharing, Visit, said_of

LOST_BEFORE_WARNING = 3  # steps that the policy would have cached


class CachedForward(Override):
    """Stands in for the denoiser's `forward`. A copy of the model has one of its own, with an empty cache.

    `asked`: the settings of the model around this one, in whose place it was accelerated; else its own.
    """

    def __init__(
        self, model: nn.Module, settings: Settings, asked: Settings | None = None, pipelines: Pipelines | None = None
    ) -> None:
        super().__init__(model)
        self.settings, self.asked = settings, asked or settings
        self.instead: CachedForward | None = None
        self.engines = make_engines(model, settings)
        self.reader = CallReader(tuple(argument_names(model)), settings.stack.sample, settings.stack.timestep, model)
        self.lane_names = NamedLanes(model)
        self.pipelines = pipelines or Pipelines()
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("module", "previous", "on", "settings", "asked", "instead", "engines", "reader", "lane_names")
        return {"expected": self.pipelines.expected, **{name: self.__dict__[name] for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        expected = state.pop("expected")
        self.__dict__.update(state, pipelines=Pipelines(orphan=state["module"] if expected else None))
        self.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedForward:
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__setstate__({name: deepcopy(value, memo) for name, value in self.__getstate__().items()})
        for pipeline in self.pipelines.alive():
            if id(pipeline) in memo:
                copy.serve(memo[id(pipeline)])
        return copy

    # putting on and taking off

    def serve(self, pipeline: Any) -> None:
        """Read `pipeline`'s scheduler too."""
        self.pipelines.serve(pipeline)

    def put_on(self) -> None:
        super().put_on()
        self.module.__dict__[MARK] = self
        self.module.__dict__[REPLICATE] = no_replicas
        self.lane_names.put_on()

    def take_off(self) -> None:
        self.module.__dict__.pop(MARK, None)
        self.module.__dict__.pop(REPLICATE, None)
        self.lane_names.take_off()
        super().take_off()
        for engine in self.engines:
            engine.close()
        self.runs, self.state = self._no_runs(), ModelState(self.module)
        if self.instead is not None:
            self.instead.take_off()

    def reset(self) -> None:
        """Empty caches and counters on all threads: whatever comes next begins a trajectory."""
        self.runs = self._no_runs()
        self.state, self.training = ModelState(self.module), TrainingMode(self.module)
        self.ledger = Ledger(self.module, self.engines, len(self.settings.stack.blocks))
        here = weakref.proxy(self)  # nothing of it refers to itself, so that it goes as soon as it is taken off
        refused, say = (lambda *why: bool(here._refused(*why))), (lambda reason: here._say(reason))
        order = Order(self.engines, at_once=self.settings.compile is not False)
        self.runner = StepRunner(self.module, order, self.settings.predictor, refused, say)
        self.sharing = Sharing(self.module, self.settings.agree, getattr(self.settings.policy, "agree", False))
        self._warned, self._lost, self._beginnings = False, 0, 0
        self.suspended = False

    def _no_runs(self) -> Runs:
        pipelines = self.pipelines
        return Runs(self.settings.policy, self.settings.predictor, lambda: pipelines.ignored)

    # a call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            self._note_compiled()
        if torch.compiler.is_compiling() or not self.on or self.suspended:
            return self.plain(*args, **kwargs)
        word = said_of(self.module)
        policy = self.settings.policy if word is None or word.policy is None else word.policy
        call = self._read(args, kwargs, policy.caches)
        if call is None:
            self.runs.drop()
            return self.plain(*args, **kwargs)
        if word is None:
            visit = self.runs.visit(call, *self.pipelines.schedulers())
        else:
            visit = self.runs.visit_named(replace(call, context=word.lane or call.context), word)
        if isinstance(visit, Repeat):
            return self._repeat(call, visit, None if word is None else word.name)
        try:
            result = self._step(call, visit)
        except BaseException:
            # A step that ended half-way leaves nothing: the next call begins a trajectory.
            self.runs.drop(visit.run)
            raise
        visit.note(result.output)
        if result.full and not visit.full and result.reason is not None:
            self._lose(result.reason)
        if visit.full and (visit.doubt or not visit.at.full):
            self._lose(visit.doubt or UNSEEN)
        if word is None and policy.caches:
            self._beginnings = 0 if visit.step else self._beginnings + visit.opens_step
            if self._beginnings > MAX_RUNS:
                self._say(BEGINNINGS)
        self.ledger.count(call, visit, result)
        if result.features is not None:
            self.ledger.evict(self.runs.keep_to(self.settings.cache_limit, visit.run))
        return result.output

    def _repeat(self, call: Call, repeat: Repeat, name: str | None) -> Any:
        self.ledger.repeat(call, name)
        output = self.plain(*call.args, **call.kwargs)
        repeat.note(output)
        return output

    def _step(self, call: Call, visit: Visit) -> StepResult:
        if not visit.run.policy.caches:
            return StepResult(self.plain(*call.args, **call.kwargs), len(self.settings.stack.blocks))
        result = self.runner.run(self.plain, call, visit, self._corrections(visit))
        if result.features is not None and result.features.H is None and reads_drift(self.settings.policy):
            self._say("the policy follows what enters the first block, and that cannot be told apart; keep=1 helps")
        return result

    def _corrections(self, visit: Visit) -> Corrections | None:
        """The calibration's, where this run is like the calibrated one, and has no policy of its own."""
        if visit.run.policy is not self.settings.policy:
            return None
        corrections = self.settings.corrections
        mismatch = mismatch_of(self.settings.policy, visit.at.view)
        if mismatch is None:
            return corrections
        dropped = "" if corrections is None else ", without corrections"
        self.ledger.because(f"calibration: {mismatch}; full steps are placed by timestep{dropped}")
        return None

    def _refused(self, engine: Engine, reason: str, last: bool) -> bool:
        """True where the denoiser inside of this one is accelerated in its place."""
        if self._hand_over(reason):
            return True
        if self.settings.engine == "fx":
            raise RuntimeError(f"engine='fx' cannot serve {type(self.module).__name__}: {reason}; use engine='auto'")
        if last:
            self._say(reason)
        else:
            self.ledger.because(f"{engine.name}: {reason}")
        return False

    def _hand_over(self, reason: str) -> bool:
        """A model may run a denoiser twice in one call (guidance). Then that one is accelerated in its place."""
        used = self.ledger.all.blocks_saved or not self.on
        inner, settings = (None if used else of_inner(self.module, self.settings)) or (None, None)
        if inner is None or settings is None or override_of(inner, CachedForward) is not None:
            return False
        self.take_off()
        self.instead = CachedForward(inner, settings, self.settings, self.pipelines)
        self.instead.put_on()
        self.instead.ledger.because(f"{type(inner).__name__} is accelerated in place of the model around it: {reason}")
        return True

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any], caches: bool) -> Call | None:
        """The call, or None where it must run as if nothing were there. `caches`: the policy of its run does."""
        reason = why_plain(self.module, args, kwargs, self.settings.training)
        if reason is None:
            state = self.state.read() if caches else None
            self.runs.processes = self.runner.processes = self.sharing.processes(state) if caches else None
            reason = self.training.why_plain(state) if state is not None else None
        if reason is None:
            call = self.reader.read(args, kwargs, self.lane_names.name, state)
            if call is not None:
                return call
            reason = f"a call had no tensor {self.reader.sample!r} or no {self.reader.timestep!r}"
        self._say(reason)
        return None

    def _say(self, reason: str) -> None:
        """Note why nothing is cached, and warn, once, where nothing was ever cached."""
        if not self.on:  # restored meanwhile, by another thread
            return
        self.ledger.because(reason)
        if not self._warned and not self.ledger.all.blocks_saved:
            self._warned = True
            warnings.warn(f"skipcache caches nothing: {reason}", UserWarning, stacklevel=2)

    @torch.compiler.assume_constant_result
    def _note_compiled(self) -> None:
        """torch.compile runs this itself, once, while it looks at `__call__`."""
        if self.on:
            self.ledger.because(COMPILED)
            warnings.warn(f"skipcache caches nothing: {COMPILED}", UserWarning, stacklevel=2)

    def _lose(self, reason: str) -> None:
        """A step that the policy would have cached ran in full. One may be a change of engines; three are not."""
        self._lost += 1
        (self._say if self._lost >= LOST_BEFORE_WARNING else self.ledger.because)(reason)

    def report(self, name: str | None = None, flops: bool = True) -> Report:
        """What was done since `accelerate` or `reset`, or in the run called `name`."""
        runs = self.runs.all if name is None else [run for run in self.runs.all if run.named == name]
        unseen = unnoticed(self, self.pipelines, bool(self.ledger.all.calls))
        return self.ledger.report(name, (x for run in runs for x in run.tensors), unseen, flops)

    def end(self, name: str) -> None:
        """The run called `name` is over."""
        self.runs.forget(name)
        self.ledger.forget(name)

    def graphs(self) -> Graphs:
        """The fx engine's; raises ValueError, with the reason, where there are none."""
        found = graphs_of(self.engines, self.ledger.latest, self.settings.predictor, self.plain)
        if isinstance(found, str):
            raise ValueError(f"{type(self.module).__name__} has no graphs yet: {found}")
        return found
