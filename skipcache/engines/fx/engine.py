"""The fx engine: each signature's full and cached steps as graphs of their own.

Record, then trace. The first full step of a signature runs as ever while the returns of its leaves (blocks, and modules
without a block in them) are written down. The forward is then run once more on fake tensors, which gives a graph of the
glue between the leaves. Out of it are made the program of the full step, which also returns H and D, and that of the
cached step, in which D-hat is predicted and the deep blocks are gone. Both must give the recorded output, to the bit.
Programs call submodules through the live model, so that they see adapters, offload hooks and replaced parts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from types import MethodType
from typing import Any

from torch import Tensor, nn

from skipcache.blocks.snapshot import quietly, same_output
from skipcache.engines.fx.decorators import around, heart
from skipcache.engines.fx.programs import Features, Graphs, Options, Programs
from skipcache.engines.fx.recording import Untraceable, record
from skipcache.engines.fx.trace import Stale
from skipcache.predictors.base import Hold, Prediction
from skipcache.stack.plan import Plan
from skipcache.stack.stack import Stack
from skipcache.trajectory.call import WRITES, Call, versions

MAX_PROGRAMS = 16
MAX_FRUITLESS = 8


class FxEngine:
    """Full and cached steps of a model through graphs.

    `compile`: True, or a dict of options for torch.compile, to compile all programs whole.
    """

    name = "fx"

    def __init__(self, model: nn.Module, stack: Stack, plan: Plan, compile: Options = False) -> None:
        self.model, self.stack, self.compile = model, stack, compile
        sizes = [len(unit) for unit in stack.units]
        self.deep = range(sum(sizes[: plan.head]), sum(sizes[: plan.depth - plan.tail]))
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("model", "stack", "compile", "deep")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def forget(self) -> None:
        """Drop all programs."""
        self._programs: OrderedDict[Hashable, Programs | str] = OrderedDict()
        self._lock = threading.Lock()
        self._fruitless = 0

    def attach(self) -> None:
        """Nothing is put on the model."""

    def detach(self) -> None:
        self.forget()

    def graphs(self) -> Graphs | None:
        """Those of the signature that was traced last; None where none was served."""
        with self._lock:
            served = [found for found in self._programs.values() if isinstance(found, Programs)]
        return served[-1].graphs if served else None

    def refusal(self, call: Call) -> str | None:
        """Why no program serves calls like this one."""
        found = self._programs.get(call.key)
        return found if isinstance(found, str) else None

    def knows(self, call: Call) -> bool:
        """There are programs for calls like this one, and the model is still the one that they were made of."""
        found = self._programs.get(call.key)
        return isinstance(found, Programs) and found.guard.holds()

    def saved(self, call: Call, prediction: Prediction) -> int | None:
        """The number of blocks that a cached step does not run; None where none can be made.

        With Hold nothing reads the head, so it goes too.
        """
        if not self.knows(call):
            return None
        programs = self._programs[call.key]
        assert isinstance(programs, Programs)
        try:
            return programs.saved(prediction)
        except Exception as error:  # a predictor of the user's own may do what a graph cannot
            self._keep(call, _reason(error))
            return None

    def full(self, forward: Callable[..., Any], call: Call) -> tuple[Any, Features | None]:
        """The model's output, and (H, D) unless the signature cannot be served.

        `forward` is what runs the model as it is, and does so here where no program can.
        """
        if self.refusal(call):
            return call.run(forward), None
        reason = self._unfit(forward, call)
        if reason:
            self._keep(call, reason)
            return call.run(forward), None
        features: list[Features | None] = []

        def step(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            output, found = self._full(replace(call, args=args, kwargs=kwargs))
            features.append(found)
            return output

        try:
            return self._decorated(step, call), features[0]
        except Exception as error:
            if not _of_compiling(error):
                raise
            self._keep(call, _reason(error))
            return call.run(forward), None

    def cached(self, forward: Callable[..., Any], call: Call, prediction: Prediction) -> Any:
        """The model's output from head, tail and the predicted deep feature."""
        programs = self._programs[call.key]
        assert isinstance(programs, Programs)

        def step(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            try:
                return programs.cached(args, kwargs, prediction)
            except Stale:
                output, features = self._first(replace(call, args=args, kwargs=kwargs))
                prediction.saw(features[0] if features is not None else None)
                return output
            except Exception as error:
                if not (isinstance(error, Untraceable) or _of_compiling(error)):
                    raise
                self._keep(call, _reason(error))
                prediction.saw(None)
                return heart(type(self.model).forward)(self.model, *args, **kwargs)

        return self._decorated(step, call)

    def _decorated(self, step: Callable[..., Any], call: Call) -> Any:
        args, kwargs = call.arguments()
        return around(type(self.model).forward, step)(self.model, *args, **kwargs)

    def _full(self, call: Call) -> tuple[Any, Features | None]:
        found = self._programs.get(call.key)
        if isinstance(found, Programs) and found.guard.holds():
            self._fruitless = 0
            try:
                return found.full(call.args, call.kwargs)
            except Stale:
                pass
        return self._first(call)

    def _first(self, call: Call) -> tuple[Any, Features | None]:
        """The first step of a signature: it runs as ever, and is recorded, traced, cut and proved."""
        function = heart(type(self.model).forward)
        before = versions(call)
        recording = record(function, self.model, self.stack.blocks, self.deep, *call.arguments())
        features, made = None, ""  # type: tuple[Features | None, Programs | str]
        try:
            if versions(call) != before:
                raise Untraceable(WRITES)
            made = Programs.of(function, self.model, self.stack, self.deep, recording, call, self.compile)
            features = _proved(made, call, recording.output)
        except Exception as error:  # the forward's own Python may fail in any way on tensors without values
            made = _reason(error)
        self._keep(call, made)
        return recording.output, features

    def _keep(self, call: Call, made: Programs | str) -> None:
        with self._lock:
            self._fruitless += 1
            self._programs[call.key] = made
            while len(self._programs) > MAX_PROGRAMS:
                self._programs.popitem(last=False)

    def _unfit(self, forward: Callable[..., Any], call: Call) -> str | None:
        """Why this call should not even be traced."""
        own = getattr(forward, "__self__", None)
        previous = getattr(own, "previous", None)
        if previous is not None and not _is_class_forward(previous, self.model):
            return "the model's forward was replaced on the instance"
        if not isinstance(call.timestep, Tensor):
            return "the timestep is a Python number, which a graph would hold for constant"
        if call.key not in self._programs and self._fruitless >= MAX_FRUITLESS:
            return "the arguments differ in more than their tensors on every call"
        return None


def _proved(made: Programs, call: Call, output: Any) -> Features:
    """The features of the full program, which like a cached one that is given D must come out as `output`."""
    with quietly(call.sample.device, made.layout.model):
        again, (H, D) = made.full(call.args, call.kwargs, eager=True)
        held = made.cached(call.args, call.kwargs, Prediction(Hold(), [D], (), residual=False), eager=True)
    if not (same_output(output, again) and same_output(output, held)):
        raise Untraceable("a program did not give the output of the step that it was made of")
    return H, D


def _is_class_forward(forward: Any, model: nn.Module) -> bool:
    return isinstance(forward, MethodType) and forward.__self__ is model and forward.__func__ is type(model).forward


def _of_compiling(error: Exception) -> bool:
    """torch.compile raised it, before anything ran. Its errors are told by where they come from: the import is slow."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    if isinstance(error, Untraceable):
        return text[0]
    what = "torch.compile" if _of_compiling(error) else "tracing"
    return f"{what} failed: {type(error).__name__}: {text[0][:200]}"
