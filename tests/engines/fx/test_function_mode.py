"""Torch functions become nodes: a graph computes on other values what the function did, and loses nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from skipcache.blocks import Outline
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.function_mode import Tracer, tracing
from tests.models.traces import run_graph


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))
        self.weight = nn.Parameter(torch.ones(4), requires_grad=False)


X, Y = torch.randn(3, 4), torch.randn(3, 4)


@torch.no_grad()
def traced(function, model, *inputs):
    """The graph of `function`, seen on fake tensors alone, and its constants."""
    graph = fx.Graph()
    tracer, fakes = Tracer(model, graph), []
    for x in inputs:
        fakes.append(tracer.blank(Outline.exactly(x)))
        tracer.know(fakes[-1], tracer.input("x"))
    with tracing(tracer):
        output = function(*fakes)
    graph.output(tracer.argument(output))
    graph.lint()
    return graph, tracer.constants


FUNCTIONS = {
    "operators": lambda x, y: -x + 2 * y - x / 3 + y @ x.t() @ x + x // 2 + x % 3,
    "reflected": lambda x, y: 1 - x + 2 / (y * y + 1) + 3 * x + 2**x,
    "powers": lambda x, y: x**2 + y.exp() ** x + pow(x, 3) + x.pow(2) + torch.pow(x, 2) + 2**x,
    "shifts": lambda x, y: (x.long() << 1) + (1 << x.long().abs()) + (y.long() >> 1) + (8 >> y.long().abs()),
    "bits": lambda x, y: (x.long() & 3) + (5 & y.long()) + (x.long() | 3) + (5 | y.long()) + (1 ^ x.long()) + ~y.long(),
    "reflected divisions": lambda x, y: 3 // (x.abs() + 1) + 3 % (y.abs() + 1) + 3 / (y.abs() + 1) + abs(-x),
    "comparisons": lambda x, y: torch.where((x > y) & (x != 0), x, y),
    "methods": lambda x, y: x.softmax(-1).unsqueeze(0).expand(2, -1, -1).sum(0) + y.abs().clamp(min=0.1).log(),
    "attributes": lambda x, y: x.T.mT + y.mT.T,
    "shapes": lambda x, y: x.reshape(*x.shape[::-1]).t() * x.shape[0] + y.view(y.size(0), -1) * len(y),
    "slices": lambda x, y: x[:, 1:3].repeat(1, 2) + y[..., None, 0:1].flatten(1) + x[[0, 2, 1]],
    "parts": lambda x, y: torch.cat([*x.chunk(2, dim=1), *torch.split(y, [1, 3], dim=1)], dim=1)[:, :4],
    "named results": lambda x, y: x.max(dim=1).values[:, None] + y.sort(dim=1)[0],
    "functions": lambda x, y: F.layer_norm(x, (4,)) + F.gelu(y) + torch.einsum("ij,kj->ik", x, y).sum(),
    "dtypes": lambda x, y: (x.double() + y.to(torch.float64)).to(x.dtype) * x.new_ones(4),
    "Python in between": lambda x, y: sum(((x if i % 2 else y) * i for i in range(3)), torch.zeros_like(x)),
    "own tensors": lambda x, y: x + torch.arange(x.shape[-1]) * torch.tensor(0.5) + y * torch.ones(4),
    "index tensors": lambda x, y: x[:, torch.arange(4).flip(0)] + y[x.argmax(0)[:3] * 0],
    "nothing": lambda x, y: y,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_graph_computes_the_same_on_other_values(kind):
    function = FUNCTIONS[kind]
    graph, constants = traced(function, Holder(), torch.zeros(3, 4), torch.ones(3, 4))
    for x, y in ((X, Y), (Y, X)):
        assert torch.equal(run_graph(graph, Holder(), x, y, *constants), function(x, y))


def test_nested_results_come_out_in_their_nesting():
    graph, _ = traced(lambda x: {"a": [x, x + 1], "b": (None, 2)}, Holder(), X)
    found = run_graph(graph, Holder(), Y)
    assert torch.equal(found["a"][1], Y + 1) and found["b"] == (None, 2)


def test_tensors_of_the_model_are_read_anew():
    model = Holder()
    graph, constants = traced(lambda x: x * model.table + model.weight, model, X)
    assert constants == [] and {n.target for n in graph.nodes if n.op == "get_attr"} == {"table", "weight"}
    model.table = torch.full((4,), 7.0)
    model.weight.fill_(5)
    assert torch.equal(run_graph(graph, model, X), X * 7 + 5)


def test_what_depends_on_no_input_is_computed_once_and_is_a_constant():
    graph, constants = traced(lambda x: x + torch.arange(4) * 2.0, Holder(), X)
    assert len(constants) == 1 and torch.equal(constants[0], torch.arange(4) * 2.0)
    assert [n.target for n in graph.nodes if n.op == "placeholder"] == ["x", "constant"]


REFUSED = {
    "in place": (lambda x: x.add_(1), "writes to a tensor in place, by add_"),
    "in place through a view": (lambda x: (x + 1)[:1].zero_(), "writes to a tensor in place, by zero_"),
    "into a slice": (lambda x: x.__setitem__(0, 1.0), "in place"),
    "random": (lambda x: x + torch.randn(4), "random numbers, by randn"),
    "random like": (lambda x: torch.rand_like(x), "random numbers, by rand_like"),
    "dropout": (lambda x: F.dropout(x, 0.5), "random numbers"),
    "an attribute": (lambda x: setattr(x + 1, "data", x), "sets the attribute 'data' of a tensor"),
    "autocast": (lambda x: _under(torch.autocast("cpu", torch.bfloat16), x), "enters autocast"),
    "grad mode": (lambda x: _under(torch.enable_grad(), x), "changes grad mode"),
    "a constant written to": (lambda x: _rewritten(x), "writes to a tensor that it has used before"),
}


def _under(context, x):
    with context:
        return x * 2


def _rewritten(x):
    mask = torch.zeros(4)
    y = x + mask
    mask.add_(1)
    return y + mask


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_graph_would_lose_is_refused(kind):
    function, message = REFUSED[kind]
    with pytest.raises(Untraceable, match=message):
        traced(function, Holder(), X)


@pytest.mark.parametrize("read", [lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x.tolist()])
def test_a_value_is_not_there_to_be_read(read):
    with pytest.raises(DataDependentOutputException):
        traced(lambda x: x * read(x), Holder(), X)


def test_a_tensor_of_nobody_s_making_is_refused():
    tracer = Tracer(Holder(), fx.Graph())
    with torch.no_grad(), tracing(tracer), pytest.raises(Untraceable, match="no torch function was seen to make"):
        torch.add(tracer.blank(Outline.exactly(X)), 1)


def test_inputs_have_names_of_their_own():
    tracer = Tracer(Holder(), fx.Graph())
    assert [tracer.input("x").target for _ in range(3)] == ["x", "x_1", "x_2"]


def test_tracers_that_are_alike_share_fakes():
    one = Tracer(Holder(), fx.Graph())
    other = Tracer(Holder(), fx.Graph(), like=one)
    fake, more = one.blank(Outline.exactly(X)), other.blank(Outline.exactly(X))
    assert isinstance(fake, FakeTensor) and fake.fake_mode is more.fake_mode
    assert Tracer(Holder(), fx.Graph()).blank(Outline.exactly(X)).fake_mode is not fake.fake_mode
