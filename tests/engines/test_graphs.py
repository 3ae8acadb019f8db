"""`skipcache.graphs`: what the fx engine runs, to read."""

import re

import pytest
import torch

import skipcache
from skipcache.engines.graphs import OTHER, UNCALLED
from tests.models.zoo import ZOO


def run(model, entry, *times):
    with torch.no_grad():
        return [model(**call) for call in entry.trajectory(*times)]


def modules(graph):
    return {node.target for node in graph.nodes if node.op == "call_module"}


def test_graphs_are_those_of_a_full_and_of_a_cached_step():
    entry = ZOO["dit"]
    model = skipcache.accelerate(entry.build(), interval=2)
    run(model, entry, 0.9, 0.8)
    graphs = skipcache.graphs(model)
    assert isinstance(graphs.full, torch.fx.Graph) and isinstance(graphs.cached, torch.fx.Graph)
    assert modules(graphs.full) - modules(graphs.cached) >= {"transformer_blocks.1", "transformer_blocks.2"}
    assert modules(graphs.cached) >= {"transformer_blocks.0", "transformer_blocks.3"}
    assert "def forward(self" in graphs.cached.python_code("self").src


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_no_graphs_yet(engine):
    entry = ZOO["dit"]
    model = entry.build()
    with pytest.raises(ValueError, match="not accelerated"):
        skipcache.graphs(model)
    skipcache.accelerate(model, interval=2, engine=engine)
    if engine == "hooks":
        run(model, entry, 0.9)
    with pytest.raises(ValueError, match=re.escape(UNCALLED) if engine == "auto" else OTHER):
        skipcache.graphs(model)


def test_no_graphs_and_why():
    entry = ZOO["lumina2"]
    model = skipcache.accelerate(entry.build(), interval=2)
    run(model, entry, 0.9)
    with pytest.raises(ValueError, match="no graphs yet: fx: the forward writes to a tensor in place"):
        skipcache.graphs(model)


def test_a_trace_on_request_leaves_nothing_but_the_graphs():
    entry = ZOO["dit"]
    model, other = (skipcache.accelerate(entry.build(), interval=2) for _ in range(2))
    run(model, entry, 0.9), run(other, entry, 0.9)
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert modules(skipcache.graphs(model).full)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(x, state[k]) for k, x in model.state_dict().items())
    assert skipcache.report(model).full_steps == 1
    ours, theirs = run(model, entry, 0.8, 0.7), run(other, entry, 0.8, 0.7)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs))
    assert skipcache.report(model).engine == "hooks and fx"


def test_a_model_without_weights_is_traced():
    entry = ZOO["dit"]
    model = skipcache.accelerate(entry.build().to("meta"), interval=2)
    call = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in entry.inputs().items()}
    with torch.no_grad():
        model(**call)
    graphs = skipcache.graphs(model)
    assert modules(graphs.cached) < modules(graphs.full)
