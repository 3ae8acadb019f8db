"""The two graphs of one signature as code that runs against the live model: its submodules are called by path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, Outside, Streams, arguments_of, as_entering, modules_of
from skipcache.engines import Features
from skipcache.engines.fx.assumptions import Guard
from skipcache.engines.fx.cut import WEIGHT, Canonical, Cut, Points, cut_graph, finish
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.nesting import tensors_in
from skipcache.engines.fx.recording import Recording, follow
from skipcache.engines.fx.trace import Trace, trace
from skipcache.predictors import Prediction
from skipcache.stack import Stack

Options = bool | dict[str, Any]

# These modes replay CUDA graphs, whose outputs lie in memory that the next replay writes to.
REPLAYING = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Graphs:
    """What the fx engine runs: the graph of a full step, which also returns H and D, and that of a cached step."""

    full: fx.Graph
    cached: fx.Graph


@dataclass(frozen=True)
class Program:
    """A graph as a function of the model and its inputs; `constants` go behind the inputs of each call.

    `blocks` is how many blocks of the stack it runs, `run` is `eager`, compiled where that is asked for.
    """

    graph: fx.Graph
    eager: Callable[..., Any]
    run: Callable[..., Any]
    constants: tuple[Any, ...]
    blocks: int

    @classmethod
    def of(cls, graph: fx.Graph, constants: Sequence[Any], stack: Stack, compile: Options = False) -> Program:
        graph.lint()
        code = graph.python_code("self")
        made: dict[str, Any] = {}
        exec(code.src, code.globals, made)
        eager = run = made["forward"]
        if compile is not False:
            run = torch.compile(run, fullgraph=True, **(compile if isinstance(compile, dict) else {}))
        called = {node.target for node in graph.nodes if node.op == "call_module"}
        return cls(graph, eager, run, tuple(constants), len(called.intersection(stack.blocks)))

    def __call__(self, model: nn.Module, *inputs: Any, eager: bool = False) -> Any:
        return (self.eager if eager else self.run)(model, *inputs, *self.constants)


@dataclass
class Programs:
    """What serves one signature: the full step's program, and a cached step's for each kind of prediction."""

    layout: Canonical
    trace: Trace
    cut: Cut
    nesting: Any
    guard: Guard
    compile: Options
    full_program: Program
    cached_programs: dict[Any, Program] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

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
        outside: Outside | None = None,
    ) -> Programs:
        """Trace `function` on the arguments of `call`, as `recording` shows it to run. Raises `Untraceable`.

        `outside` was found before, and nothing there has changed since; None where that is not known.
        """
        if recording.overwritten:
            raise Untraceable(
                f"the forward writes in place to what {', '.join(recording.overwritten)} takes or returns"
            )
        leaves, spec = pytree.tree_flatten((call.args, dict(call.kwargs)))
        names = [f"input_{i}" for i in range(len(leaves))]
        outside = Outside(modules_of(model)) if outside is None else outside
        with torch.inference_mode(False), torch.no_grad():
            try:
                traced = trace(function, model, stack.blocks, recording, names, leaves, spec)
            finally:
                changed = outside.changed()
                outside.put_back()
            if changed:
                raise Untraceable(f"the forward changes {', '.join(changed[:3])} outside of the model")
            cut = Cut.of(traced, model, stack, deep)
            layout = Canonical(model, stack, call.batch)
            nesting = finish(traced, cut, layout)
        leaves = [model.get_submodule(c.path) for c in traced.calls]
        guard = Guard(traced.glue.values(), leaves, traced.reads, model)
        program = Program.of(traced.graph, traced.tracer.constants, stack, compile)
        return cls(layout, traced, cut, nesting, guard, compile, program)

    @property
    def graphs(self) -> Graphs:
        """The full graph and the cached graph that was built last."""
        return Graphs(self.full_program.graph, list(self.cached_programs.values())[-1].graph)

    def full(self, args: Any, kwargs: Any, eager: bool = False, model: nn.Module | None = None) -> tuple[Any, Features]:
        """The model's output, and (H, D). `model`: run on a stand-in for it."""
        output, H, D = self._own(self.full_program(model or self.layout.model, *_tensors(args, kwargs), eager=eager))
        return pytree.tree_unflatten(list(output), self.nesting), Features(H, D)

    def full_as_it_is(self, function: Any, args: Any, kwargs: Any) -> tuple[Any, Features | None]:
        """The output of `function`, run with all of its Python, and (H, D); None where they were not seen once."""
        cut, model, stack = self.cut, self.layout.model, self.layout.stack
        leaving = {cut.D_path} if cut.inlets else {cut.H_path, cut.D_path}
        output, seen = follow(function, model, stack.blocks, cut.H_path, leaving, args, kwargs)
        if any(len(seen[path]) != 1 for path in ("", *leaving)):
            return output, None
        H = None if cut.inlets else seen[cut.H_path][0]
        return output, self.features(seen[""][0], H, seen[cut.D_path][0])

    def features(self, given: tuple[Any, Any], H_out: Any, D_out: Any) -> Features | None:
        """(H, D), from what the first deep block was `given` and what the ends returned; None where they look odd."""
        cut, canonical = self.cut, self.layout.canonical
        first = self.layout.model.get_submodule(cut.H_path)
        D, arguments = tuple(tensors_in(D_out)), arguments_of(*as_entering(first, *given)) if cut.inlets else {}
        H: Any = tuple(map(arguments.get, cut.inlets)) if cut.inlets else tuple(tensors_in(H_out))
        if not (_look_alike(D, cut.D) and (cut.H is None or _look_alike(H, cut.H))):
            return None
        return Features(None if cut.H is None else canonical(cut.H_path, H), canonical(cut.D_path, D))

    def cached(
        self,
        args: Any,
        kwargs: Any,
        prediction: Prediction,
        eager: bool = False,
        model: nn.Module | None = None,
    ) -> tuple[Any, int]:
        """The model's output from head, tail and the predicted deep feature, and how many blocks ran for it."""
        program = self.cached_program(prediction)
        inputs = [x for streams in prediction.kept for x in streams]
        factors = [torch.tensor(w, dtype=torch.float64, device="cpu") for w in prediction.weights]
        given = (*_tensors(args, kwargs), *self.full_program.constants)
        output = self._own(program(model or self.layout.model, *given, *inputs, *factors, eager=eager))
        if prediction.observe is not None:
            output, H = output
            prediction.saw(H)
        return pytree.tree_unflatten(list(output), self.nesting), program.blocks

    def rehearse(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """The cached step that was made last, by a copy of the model on blank tensors."""
        (*_, weights, specs), program = list(self.cached_programs.items())[-1]
        kept = [x.blank() for streams in specs for x in streams]
        factors = [WEIGHT.blank() for _ in range(weights)]
        given = (*_tensors(args, kwargs), *self.full_program.constants)
        return program(model, *given, *kept, *factors, eager=True)

    def cached_program(self, prediction: Prediction) -> Program:
        specs = tuple(tuple(map(Outline.exactly, streams)) for streams in prediction.kept)
        observed, weights = prediction.observe is not None, len(prediction.weights)
        key = (prediction.predictor, prediction.residual, observed, weights, specs)
        with self._lock:  # two threads must not trace with one FakeTensorMode
            if key not in self.cached_programs:
                self.cached_programs[key] = self._cut(prediction, specs)
            return self.cached_programs[key]

    def _cut(self, prediction: Prediction, specs: Sequence[Sequence[Outline]]) -> Program:
        def predict(H: Streams | None, kept: Sequence[Streams], weights: Sequence[Any]) -> Streams:
            return replace(prediction, kept=kept, weights=weights)(H)

        with torch.inference_mode(False), torch.no_grad():
            graph, extra = cut_graph(
                self.trace.graph,
                self.trace.tracer,
                self.cut,
                self.layout,
                predict,
                specs,
                len(prediction.weights),
                observed=prediction.observe is not None,
            )
        return Program.of(graph, extra, self.layout.stack, self.compile)

    def _own(self, outputs: Any) -> Any:
        """Outputs that stay as they are when the program runs again."""
        options = self.compile if isinstance(self.compile, dict) else {}
        if options.get("mode") not in REPLAYING:
            return outputs
        return pytree.tree_map_only(Tensor, torch.clone, outputs)


def _look_alike(streams: Sequence[Any], points: Points) -> bool:
    return [isinstance(x, Tensor) and Outline.of(x) for x in streams] == [Outline.of(x) for x, _ in points]


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
