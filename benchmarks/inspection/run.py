"""`skipcache inspect`: what is found in a model, before a weight is loaded: stack, plan, ideal speedup."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import skipcache
from skipcache.benchmarks.inspection.example import build, example_inputs
from skipcache.benchmarks.sampling.flops import flop_counter
from skipcache.benchmarks.show.tables import new_table

INTERVALS = (2, 3, 4, 5)


def run_inspect(
    target: str, console: Console, *, keep: tuple[int, int] = (1, 1), overrides: Sequence[str] = (), graph: bool = False
) -> None:
    """With `graph`, the two graphs of the fx engine are printed as code after the tables."""
    example = build(target, overrides)
    inputs = example_inputs(example.model)
    stack = skipcache.find_stack(example.model)
    plan = skipcache.Plan(len(stack.units), *keep)
    console.print(f"{type(example.model).__name__}, {example.origin}", highlight=False)
    console.print(_stack_table(example.model, stack, plan))
    costs = count_costs(example.model, inputs, stack)
    console.print(_ideal_table(plan, costs))
    if costs is None:
        console.print("FLOPs: not counted, since no inputs are known that this class takes", highlight=False)
    graphs = trace_graphs(example.model, inputs, plan)
    if isinstance(graphs, str):
        console.print(f"graphs: none, since {graphs}", highlight=False, markup=False)
        return
    console.print(_graph_table(graphs))
    for name, traced in (("full step", graphs.full), ("cached step, D held", graphs.cached)) if graph else ():
        console.print(f"# {name}\n{code(traced)}\n", highlight=False, markup=False, soft_wrap=True)


def _stack_table(model: nn.Module, stack: skipcache.Stack, plan: skipcache.Plan) -> Table:
    table = new_table("stack and plan")
    for column in ("part", "units", "blocks", "on a cached step"):
        table.add_column(column)
    parts = (
        ("head", plan.head_units, "runs"),
        ("deep", plan.deep_units, "is predicted"),
        ("tail", plan.tail_units, "runs"),
    )
    for name, units, fate in parts:
        paths = [path for unit in units for path in stack.units[unit]]
        table.add_row(name, str(len(units)), "\n".join(_ranges(model, paths)), fate)
    own = "of its own" if stack.native_skips else "none of its own"
    table.caption = f"sample: {stack.sample}, timestep: {stack.timestep}, skip branches: {own}"
    return table


def _ranges(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """'transformer_blocks.1 to .26 (BasicTransformerBlock)', one line for each list of blocks."""
    lists: dict[str, list[str]] = {}
    for path in paths:
        lists.setdefault(path.rpartition(".")[0], []).append(path)
    lines = []
    for members in lists.values():
        last = f" to .{members[-1].rpartition('.')[2]}" if len(members) > 1 else ""
        lines.append(f"{members[0]}{last} ({type(model.get_submodule(members[0])).__name__})")
    return lines


@dataclass(frozen=True)
class Costs:
    """FLOPs of one call: of each unit, and of everything."""

    units: tuple[int, ...]
    total: int

    def cached(self, plan: skipcache.Plan) -> int:
        return self.total - sum(self.units[i] for i in plan.deep_units)


def count_costs(model: nn.Module, inputs: dict[str, Any] | None, stack: skipcache.Stack) -> Costs | None:
    """None where inputs for the class are not known."""
    if inputs is None:
        return None
    try:
        with torch.no_grad(), flop_counter() as counter:
            model(**inputs)
    except Exception:  # the inputs are a guess, and a model may refuse a guess in any way
        return None
    by_module = {str(name): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    root = type(model).__name__
    units = tuple(sum(by_module.get(f"{root}.{path}", 0) for path in unit) for unit in stack.units)
    return Costs(units, counter.get_total_flops())


def _ideal_table(plan: skipcache.Plan, costs: Costs | None) -> Table:
    table = new_table("ideal speedup")
    for column in ("interval", "by blocks", "by FLOPs"):
        table.add_column(column, justify="right")
    for interval in INTERVALS:
        blocks = ideal(interval, plan.depth, plan.head + plan.tail)
        flops = "-" if costs is None else f"{ideal(interval, costs.total, costs.cached(plan)):.2f}x"
        table.add_row(str(interval), f"{blocks:.2f}x", flops)
    return table


def trace_graphs(model: nn.Module, inputs: dict[str, Any] | None, plan: skipcache.Plan) -> skipcache.Graphs | str:
    """Those of one full step, without weights; or why there are none."""
    if inputs is None:
        return "no inputs are known that this class takes"
    with skipcache.accelerated(model, 2, keep=(plan.head, plan.tail)), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is cached is said here
        try:
            model(**inputs)
            return skipcache.graphs(model)
        except Exception as error:  # as above: the inputs are a guess
            return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _graph_table(graphs: skipcache.Graphs) -> Table:
    table = new_table("graphs of the fx engine")
    for column in ("step", "nodes", "calls of modules", "glue"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, graph in (("full", graphs.full), ("cached", graphs.cached)):
        modules = sum(node.op == "call_module" for node in graph.nodes)
        glue = sum(node.op in ("call_function", "call_method") for node in graph.nodes)
        table.add_row(name, str(len(graph.nodes)), str(modules), str(glue))
    return table


def code(graph: torch.fx.Graph) -> str:
    return graph.python_code("self").src.strip()


def ideal(interval: int, full: int, cached: int) -> float:
    """Speedup of many steps, one in `interval` at the cost `full`, the others at `cached`."""
    return interval * full / (full + (interval - 1) * cached)
