"""The two graphs of one signature as code that runs against the live model: its submodules are called by path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipcache.cut import Cut, Layout, cut_graph, finish
from skipcache.guard import Guard
from skipcache.predictor import Prediction, Streams
from skipcache.record import Recording, Spec, Untraceable
from skipcache.stack import Stack
from skipcache.trace import Trace, trace

Features = tuple[Streams | None, Streams]
Options = bool | dict[str, Any]

# These modes replay CUDA graphs, whose outputs lie in memory that the next replay writes to.
REPLAYING = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Program:
    """A graph as a function of the model and its inputs; `constants` go behind the inputs of each call."""

    graph: fx.Graph
    run: Callable[..., Any]
    constants: tuple[Any, ...]

    @classmethod
    def of(cls, graph: fx.Graph, constants: Sequence[Any], compile: Options = False) -> Program:
        graph.lint()
        code = graph.python_code("self")
        made: dict[str, Any] = {}
        exec(code.src, code.globals, made)
        run = made["forward"]
        if compile is not False:
            run = torch.compile(run, fullgraph=True, **(compile if isinstance(compile, dict) else {}))
        return cls(graph, run, tuple(constants))

    def __call__(self, model: nn.Module, *inputs: Any) -> Any:
        return self.run(model, *inputs, *self.constants)


@dataclass
class Programs:
    """What serves one signature: the full step's program, and a cached step's for each kind of prediction."""

    layout: Layout
    trace: Trace
    cut: Cut
    nesting: Any
    guard: Guard
    compile: Options
    full_program: Program
    cached_programs: dict[Any, Program] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock, repr=False)  # fake tensors are for one thread

    @classmethod
    def of(
        cls,
        function: Any,
        model: nn.Module,
        stack: Stack,
        deep: range,
        recording: Recording,
        call: Any,
        compile: Options,
    ) -> Programs:
        """Trace `function` on the arguments of `call`, as `recording` shows it to run. Raises `Untraceable`."""
        if recording.overwritten:
            raise Untraceable(
                f"the forward writes in place to what {', '.join(recording.overwritten)} takes or returns"
            )
        leaves, spec = pytree.tree_flatten((call.args, dict(call.kwargs)))
        names = [f"input_{i}" for i in range(len(leaves))]
        with torch.inference_mode(False), torch.no_grad():
            traced = trace(function, model, stack.blocks, recording, names, leaves, spec)
            cut = Cut.of(traced, model, stack, deep)
            layout = Layout(model, stack, call.batch)
            nesting = finish(traced, cut, layout)
        guard = Guard(traced.glue.values(), [model.get_submodule(c.path) for c in traced.calls])
        program = Program.of(traced.graph, traced.tracer.constants, compile)
        return cls(layout, traced, cut, nesting, guard, compile, program)

    def full(self, args: Any, kwargs: Any) -> tuple[Any, Features]:
        """The model's output, and (H, D)."""
        output, H, D = self._own(self.full_program(self.layout.model, *_tensors(args, kwargs)))
        return pytree.tree_unflatten(list(output), self.nesting), (H, D)

    def cached(self, args: Any, kwargs: Any, prediction: Prediction) -> Any:
        """The model's output from head, tail and the predicted deep feature."""
        kept, weights = prediction.kept, tuple(prediction.weights)
        if self.compile is not False and len(kept) < prediction.predictor.depth:
            # One program for the first cached steps too: a difference of a feature and itself, times zero. The same
            # tensor twice would be compiled into the program.
            missing = prediction.predictor.depth - len(kept)
            kept = [*kept, *(tuple(map(torch.clone, kept[-1])) for _ in range(missing))]
            weights = (*weights, *[0.0] * (len(kept) - 1 - len(weights)))
        program = self.cached_program(prediction, kept, len(weights))
        inputs = [x for streams in kept for x in streams]
        factors = [torch.tensor(w, dtype=torch.float64) for w in weights]
        given = (*_tensors(args, kwargs), *self.full_program.constants)
        output = program(self.layout.model, *given, *inputs, *factors)
        return pytree.tree_unflatten(list(self._own(output)), self.nesting)

    def cached_program(self, prediction: Prediction, kept: Sequence[Streams], weights: int) -> Program:
        key = (prediction.predictor, prediction.residual, weights, tuple(tuple(map(Spec.of, s)) for s in kept))
        with self._making:
            found = self.cached_programs.get(key)
            if found is None:
                found = self.cached_programs[key] = self._make_cached(prediction, kept, weights)
        return found

    def _make_cached(self, prediction: Prediction, kept: Sequence[Streams], weights: int) -> Program:
        predictor, residual = prediction.predictor, prediction.residual

        def predict(H: Streams | None, kept: Sequence[Streams], weights: Sequence[Any]) -> Streams:
            return predictor.predict(H if residual else None, kept, weights)

        specs = [[Spec.of(x) for x in streams] for streams in kept]
        tracer = self.trace.tracer
        try:
            with torch.inference_mode(False), torch.no_grad():
                graph, extra = cut_graph(self.trace.graph, tracer, self.cut, self.layout, predict, specs, weights)
        except Untraceable:
            raise
        except Exception as error:  # a predictor of one's own may do anything
            raise Untraceable(f"the predictor cannot be traced: {type(error).__name__}: {error}") from error
        return Program.of(graph, extra, self.compile)

    def _own(self, outputs: Any) -> Any:
        """Outputs that stay as they are when the program runs again."""
        options = self.compile if isinstance(self.compile, dict) else {}
        if options.get("mode") not in REPLAYING:
            return outputs
        return pytree.tree_map_only(Tensor, torch.clone, outputs)


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
