"""The fx engine: each signature's full and cached steps as graphs of their own.

Record, then trace. The first full step of a signature runs as usual, while the returns of its leaves (blocks, and
modules without a block in them) are recorded. The forward is then run once more on fake tensors, which gives a graph of
the glue between the leaves. From it are made the program of the full step, which also returns H and D, and that of the
cached step, in which D-hat is predicted and the deep blocks are gone. Both must give the recorded output, to the bit.
Programs call submodules through the live model, so that adapters, offload hooks and replaced parts keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from skipcache.blocks import Outside, is_bound_to, modules_of, own_forward
from skipcache.branches import branches_of
from skipcache.engines import Features, Recent, StepResult
from skipcache.engines.answers import Answers
from skipcache.engines.fx.assumptions import unfit_argument
from skipcache.engines.fx.decorators import innermost, rewrapped
from skipcache.engines.fx.errors import Stale, Untraceable, of_compiling, reason_of
from skipcache.engines.fx.programs import Graphs, Options, Programs
from skipcache.engines.fx.recording import record
from skipcache.engines.graph_proof import proved
from skipcache.predictors import Prediction
from skipcache.stack import Plan, Stack, deep_blocks
from skipcache.trajectory import WRITES, Call, versions

MAX_PROGRAMS = 16
MAX_FRUITLESS = 8  # signatures traced in a row that no later call had
MAX_TRACES = 2  # of one signature, without a cached step between them
CHANGING = "what the forward's Python reads changes from step to step, and a graph would take it for constant"


@dataclass(frozen=True)
class Refused:
    """No program serves a signature."""

    reason: str


class FxEngine:
    """Full and cached steps of a model through graphs.

    `compile`: True, or a dict of options for torch.compile, to compile all programs whole.
    """

    name = "fx"

    def __init__(self, model: nn.Module, stack: Stack, plan: Plan, compile: Options = False) -> None:
        self.model, self.stack, self.compile = model, stack, compile
        self.deep = deep_blocks(stack, plan)
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("model", "stack", "compile", "deep")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        """Drop all programs."""
        self._programs: Recent[Programs | Refused] = Recent(MAX_PROGRAMS)
        self._traces: Recent[int] = Recent(4 * MAX_PROGRAMS)
        self._fruitless = 0

    def attach(self) -> None:
        """Nothing is put on the model."""

    def detach(self) -> None:
        self.forget()

    def close(self) -> None:
        self.forget()

    def graphs(self) -> Graphs | None:
        """Those of the signature that was used last; None where none was served."""
        served = [found for found in self._programs.values() if isinstance(found, Programs)]
        return served[-1].graphs if served else None

    def refusal(self, call: Call) -> str | None:
        found = self._programs.get(call.signature)
        return found.reason if isinstance(found, Refused) else unfit_argument(call)

    def serves(self, call: Call) -> bool:
        """There are programs for calls like this one, and the model is still the one that they were made of."""
        return self._serving(call) is not None

    def can_cache(self, call: Call, prediction: Prediction) -> bool:
        programs = self._serving(call)
        if programs is None:
            return False
        try:
            programs.cached_program(prediction)
        except Exception as error:  # a predictor of the user's own may do what a graph cannot
            self._keep(call, Refused(reason_of(error)))
            return False
        return True

    def full(self, forward: Callable[..., Any], call: Call) -> StepResult:
        """`forward` runs the model as it is where no program can."""
        if self.refusal(call) is not None:
            return self._plain(forward, call)
        reason = self._unfit(forward, call)
        if reason:
            self._keep(call, Refused(reason))
            return self._plain(forward, call)
        try:
            return self._decorated(self._full, call)
        except Exception as error:
            if not of_compiling(error):
                raise
            self._keep(call, Refused(reason_of(error)))
            return self._plain(forward, call)

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> StepResult:
        """In full where a submodule returns another plain value than the one that the graph was made for."""

        def step(call: Call) -> StepResult:
            programs = self._programs.get(call.signature)
            if not isinstance(programs, Programs):  # another thread has dropped it
                return self._first(call)
            try:
                output, blocks = programs.cached(call.args, call.kwargs, prediction)
                self._traces.put(call.signature, 0)
                return StepResult(output, blocks, full=False)
            except Stale:
                return self._first(call)
            except Exception as error:
                if not (isinstance(error, Untraceable) or of_compiling(error)):
                    raise
                self._keep(call, Refused(reason_of(error)))
                output = innermost(own_forward(self.model))(self.model, *call.args, **call.kwargs)
                return StepResult(output, len(self.stack.blocks))

        return self._decorated(step, call)

    def rehearsal(self, copy: nn.Module, call: Call) -> Iterator[Callable[[], Any]]:
        yield lambda: call.run(copy.forward)
        programs = self._programs.get(call.signature)
        assert isinstance(programs, Programs)
        step = lambda module, *args, **kwargs: programs.rehearse(module, args, kwargs)  # noqa: E731
        yield lambda: call.run(partial(rewrapped(own_forward(copy), step), copy))

    def _serving(self, call: Call) -> Programs | None:
        found = self._programs.get(call.signature)
        return found if isinstance(found, Programs) and found.guard.holds() else None

    def _plain(self, forward: Callable[..., Any], call: Call) -> StepResult:
        return StepResult(call.run(forward), len(self.stack.blocks))

    def _decorated(self, step: Callable[[Call], StepResult], call: Call) -> StepResult:
        """`step` in the place of the model's own forward, with the decorators of that forward around it."""
        results: list[StepResult] = []

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            results.append(step(replace(call, args=args, kwargs=kwargs)))
            return results[-1].output

        args, kwargs = call.arguments()
        output = rewrapped(own_forward(self.model), forward)(self.model, *args, **kwargs)
        return replace(results[-1], output=output)

    def _full(self, call: Call) -> StepResult:
        """The model's own forward, so that its Python is right whatever it does; compiled, the graph of it."""
        programs = self._serving(call)
        if programs is not None:
            self._fruitless = 0
            try:
                return self._known(programs, call)
            except Stale:
                pass
        return self._first(call)

    def _known(self, programs: Programs, call: Call) -> StepResult:
        features: Features | None
        if self.compile is False:
            function = innermost(own_forward(self.model))
            output, features = programs.full_as_it_is(function, *call.arguments())
        else:
            output, features = programs.full(call.args, call.kwargs)
        return StepResult(
            output, programs.full_program.blocks, features=features, reason=None if features else CHANGING
        )

    def _first(self, call: Call) -> StepResult:
        """The first step of a signature: it runs as usual, and is recorded, traced, cut and proved."""
        function, whole = innermost(own_forward(self.model)), self.compile is not False
        before, outside, blocks = versions(call), Outside(modules_of(self.model)), self.stack.blocks
        noted = [path for i, path in enumerate(blocks) if whole or i not in self.deep]
        modules = map(self.model.get_submodule, noted)
        answers = Answers(modules, outside, call.sample.device, branches_of(self.model))
        recording = record(function, self.model, blocks, self.deep, *call.arguments(), answers, whole)
        answers.finish()
        self._traces.put(call.signature, 1 + (self._traces.get(call.signature) or 0))
        ran = sum(len(recording.returned.get(path, ())) for path in blocks)
        try:
            if versions(call) != before:
                raise Untraceable(WRITES)
            known = None if answers.unsound else outside
            made = Programs.of(function, self.model, self.stack, self.deep, recording, call, self.compile, known)
            features = proved(made, call, recording, outside, answers)
        except Exception as error:  # the forward's own Python may fail in any way on tensors without values
            self._keep(call, Refused(reason_of(error)))
            return StepResult(recording.output, ran)
        self._keep(call, made)
        return StepResult(recording.output, ran, features=features)

    def _keep(self, call: Call, made: Programs | Refused) -> None:
        self._fruitless += 1
        self._programs.put(call.signature, made)

    def _unfit(self, forward: Callable[..., Any], call: Call) -> str | None:
        """Why this call should not even be traced."""
        own = getattr(forward, "__self__", None)
        previous = getattr(own, "previous", None)
        if previous is not None and not is_bound_to(previous, self.model):
            return "the model's forward was replaced on the instance"
        if not isinstance(call.timestep, Tensor):
            return "the timestep is a Python number, which a graph would take for a constant"
        if self._programs.get(call.signature) is None and self._fruitless >= MAX_FRUITLESS:
            return "the arguments differ in more than their tensors on every call"
        if (self._traces.get(call.signature) or 0) >= MAX_TRACES and self._serving(call) is None:
            return CHANGING
        return None
