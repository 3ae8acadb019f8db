"""A trace is cut at H and D: the cached step's graph has no deep block, and none of the glue that only they needed."""

import pytest
import torch

from skipcache.blocks import Outline
from skipcache.engines.fx.cut import Canonical, Cut, cut_graph, finish
from skipcache.engines.fx.errors import Untraceable
from skipcache.predictors import Delta, Forecast, Hold
from tests.models.traces import STACK, Glued, arguments, cut_of, deep_of, glued, recorded, run_graph, traced


def graphs(model, keep=1, predictor=None, observed=False):
    """The full graph, the cached one, the constants of both, and what a full step leaves."""
    predictor, args = predictor or Hold(), arguments()
    found, cut = cut_of(model, args, keep)
    layout = Canonical(model, STACK, 2)
    finish(found, cut, layout)
    constants = found.tracer.constants
    (output,), H, D = run_graph(found.graph, model, *args, *constants)
    feature = tuple(d - h for d, h in zip(D, H)) if predictor.residual else D
    kept = predictor.remember(feature, (), [0])
    specs = [[Outline.exactly(x) for x in streams] for streams in kept]
    weights = predictor.weights(1, [0])

    def predict(H, kept, weights):
        return predictor.predict(H if predictor.residual else None, kept, weights)

    with torch.no_grad():
        graph, extra = cut_graph(found.graph, found.tracer, cut, layout, predict, specs, len(weights), observed)

    def run(*args):
        given = [x for streams in kept for x in streams] + [torch.tensor(w, dtype=torch.float64) for w in weights]
        return run_graph(graph, model, *args, *constants, *given, *extra)

    return found.graph, graph, run, (output, H, D)


def glue(graph):
    """Between which blocks and the ones before them the graph computes."""
    muls = [node.args[1] for node in graph.nodes if node.op == "call_method" and node.target == "mul"]
    return {i - 1 for i in muls if isinstance(i, int)}


def called(graph):
    return [node.target for node in graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("keep", [1, (2, 1), (1, 0), (0, 1), 0])
def test_h_and_d_lie_where_the_plan_says(keep):
    _, cut = cut_of(glued(), arguments(), keep)
    deep = [STACK.blocks[i] for i in deep_of(keep)]
    head = deep_of(keep).start
    assert {node.target for node in cut.deep} == set(deep) and cut.D_path == deep[-1]
    assert cut.H_path == (STACK.blocks[head - 1] if head else deep[0])


@pytest.mark.parametrize("predictor", [Hold(), Delta(), Forecast(1)], ids=repr)
@pytest.mark.parametrize("keep", [1, (2, 1), (1, 0), (0, 1), 0])
def test_the_cached_graph_has_no_deep_block_and_gives_the_full_output_on_the_same_arguments(keep, predictor):
    model = glued()
    full, cached, run, (output, *_) = graphs(model, keep, predictor)
    assert set(STACK.blocks) <= set(called(full))
    deep = {STACK.blocks[i] for i in deep_of(keep)}
    assert not deep & set(called(cached))
    head = set(range(max(deep_of(keep).start, 1))) if predictor.residual else set()  # without a head H enters block 0
    assert glue(full) == {0, 1, 2, 3} and glue(cached) == head | set(range(deep_of(keep).stop, 4))
    torch.testing.assert_close(run(*arguments())[0], output)
    assert torch.equal(output, model(*arguments())["eps"])
    assert "inlet" not in called(cached) or predictor.residual, "what is held needs no head"


def test_the_features_are_those_that_the_blocks_hand_out():
    model, seen = glued(), {}
    for i in (0, 2):
        model.blocks[i].register_forward_hook(lambda module, args, output, i=i: seen.update({i: output}))
    *_, (_, H, D) = graphs(model)
    assert torch.equal(H[0], seen[0]) and torch.equal(D[0], seen[2])


def test_the_fresh_h_is_handed_out_where_it_is_asked_for():
    _, cached, run, (output, H, _) = graphs(glued(), observed=True)
    found, (fresh,) = run(*arguments())
    assert torch.equal(found[0], output) and torch.equal(fresh, H[0])
    assert "blocks.0" in called(cached), "so that with Hold too the head runs"


class Reads(Glued):
    """The outlet reads a feature from within the deep part."""

    def between(self, x, i):
        INSIDE.append(x) if i == 2 else None
        return x * (i + 1)

    def after(self, x):
        return x + INSIDE.pop()


INSIDE = []


class Backwards(Glued):
    def forward(self, x, t):
        c = t.float()[:, None]
        for i in (0, 2, 1, 3):
            x = self.blocks[i](x, c)
        return {"eps": x}


class Skips(Glued):
    def forward(self, x, t):
        for i in (0, 3):
            x = self.blocks[i](x, t.float()[:, None])
        return {"eps": x}


def test_a_tail_that_reads_more_than_d_is_refused():
    with pytest.raises(Untraceable, match="reads more of them than what the last one returns"):
        graphs(glued(Reads))


@pytest.mark.parametrize(
    ("kind", "ran"), [(Backwards, "blocks.0, blocks.2, blocks.1, blocks.3"), (Skips, "blocks.0, blocks.3")]
)
def test_blocks_out_of_order_are_refused_and_named(kind, ran):
    model = glued(kind)
    found = traced(model, arguments(), recorded(model, arguments()))
    with pytest.raises(Untraceable, match=f"they ran: {ran}$"):
        Cut.of(found, model, STACK, deep_of(1))


def test_a_predictor_that_gives_something_else_is_refused():
    class Short(Hold):
        def predict(self, H, kept, weights):
            return tuple(x[:1] for x in kept[0])

    with pytest.raises(Untraceable, match=r"the predictor gives .* where the deep blocks give"):
        graphs(glued(), predictor=Short())


def test_an_output_that_cannot_be_rebuilt_is_refused():
    class Opaque(Glued):
        def forward(self, x, t):
            return {"eps": super().forward(x, t)["eps"], "more": object()}

    with pytest.raises(Untraceable, match="the forward returns a object, which a graph cannot rebuild"):
        graphs(glued(Opaque))
