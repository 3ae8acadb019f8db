"""What the graphs hold, what they read anew, and what tracing leaves behind."""

import collections

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import skipcache
from skipcache import Hold
from skipcache.predictors.base import remembered
from tests.models.defaults import DEFAULT_PREDICTORS
from tests.models.odd import Tiny, programs, run, tiny
from tests.models.sampling import build, deep, equal, sample


class Holds(Tiny):
    """Tensors everywhere: a buffer, an attribute, a list, a constant made in the forward."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("table", torch.randn(16), persistent=False)
        self.loose = torch.randn(16)
        self.listed = [torch.randn(16)]

    def before(self, h, x, t):
        return h + self.table + self.loose + self.listed[0] + torch.arange(16) * torch.tensor(0.5)


def fakes(model):
    for module in model.modules():
        for held in (module.__dict__, module._parameters, module._buffers):
            yield from (name for name, value in held.items() if isinstance(value, FakeTensor))
            yield from (name for name in held if name.startswith("_tensor_constant"))


@pytest.mark.parametrize("name", ["tiny", "dit", "latte", "flux_dev"])
def test_tracing_leaves_nothing_on_the_model_and_nothing_patched(name):
    call, fetch, set_attribute = nn.Module.__call__, nn.Module.__getattr__, nn.Module.__setattr__
    model = tiny(Holds) if name == "tiny" else build(name)
    before = {path: set(module.__dict__) for path, module in model.named_modules()}
    parameters = {key: id(x) for key, x in [*model.named_parameters(), *model.named_buffers()]}
    skipcache.accelerate(model, interval=3, engine="fx")
    run(model) if name == "tiny" else sample(name, model)
    assert programs(model) and not list(fakes(model))
    assert (nn.Module.__call__, nn.Module.__getattr__, nn.Module.__setattr__) == (call, fetch, set_attribute)
    assert {key: id(x) for key, x in [*model.named_parameters(), *model.named_buffers()]} == parameters
    after = {path: set(module.__dict__) for path, module in model.named_modules()}
    assert all(after[path] - before[path] <= {"forward", "cache_context"} for path in after)
    assert not any("forward" in model.get_submodule(path).__dict__ for path in skipcache.find_stack(model).blocks)


def test_tensors_that_the_model_holds_are_read_anew():
    model, hooked = (skipcache.accelerate(tiny(Holds), interval=3, engine=e) for e in ("fx", "hooks"))
    first_outputs = run(model)
    assert equal(first_outputs, run(hooked))
    for one in (model, hooked):
        one.table.mul_(2)
        one.loose = one.loose * 3
        one.outlet.weight.data.mul_(2)
    changed = run(model)
    assert not equal(changed, first_outputs) and equal(changed, run(hooked))
    for one in (model, hooked):
        one.listed[0] = one.listed[0] * 5
    assert equal(run(model), run(hooked)), "a tensor in a list is a constant, which is guarded"
    for one in (model, hooked):
        one.listed[0].mul_(2)
    assert equal(run(model), run(hooked))


def targets(graph):
    return collections.Counter(str(node.target) for node in graph.nodes if node.op in ("call_method", "call_function"))


def test_a_cached_latte_step_has_no_trace_of_the_skipped_pairs():
    found = {}
    for depth in (4, 8):
        model = skipcache.accelerate(deep("latte", depth).requires_grad_(False), interval=3, engine="fx")
        sample("latte", model)
        (made,) = programs(model)
        held = next(g.graph for key, g in made.cached_programs.items() if key[0] == Hold())
        found[depth] = made.full_program.graph, held, [p.graph for p in made.cached_programs.values()]
    assert targets(found[4][1]) == targets(found[8][1])
    assert [len(g.nodes) for g in found[4][2]] == [len(g.nodes) for g in found[8][2]]
    assert len(found[8][0].nodes) > len(found[4][0].nodes) > len(found[4][1].nodes)


@pytest.mark.parametrize("keep", [1, 2, (1, 0), (0, 1)])
@pytest.mark.parametrize("name", ["dit", "latte", "flux_dev", "wan", "pixart_alpha", "cogvideox", "original_latte"])
def test_no_deep_block_is_in_any_cached_program(name, keep):
    model = build(name)
    stack = skipcache.find_stack(model)
    if keep == 2 and len(stack.units) < 5:
        keep = (2, 1)
    skipcache.accelerate(model, interval=3, keep=keep, engine="fx")
    sample(name, model)
    head, tail = keep if isinstance(keep, tuple) else (keep, keep)
    ends = {path for unit in (*stack.units[:head], *stack.units[len(stack.units) - tail :]) for path in unit}
    (made,) = programs(model)
    assert made.cached_programs
    for key, program in made.cached_programs.items():
        called = {n.target for n in program.graph.nodes if n.op == "call_module"}
        ran = called & set(stack.blocks)
        assert ran == ends or (key[0] == Hold() and ran < ends), "what is held needs no head"
    full = {n.target for n in made.full_program.graph.nodes if n.op == "call_module"}
    assert set(stack.blocks) <= full


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS)
def test_weights_are_the_same_as_numbers_and_as_tensors(predictor, dtype):
    """Programs take them as 0-d tensors, the hook engine as numbers."""
    torch.manual_seed(predictor.depth)
    for steps in ([12, 9, 6, 3, 0], [17, 10, 9, 4, 1], [7, 6, 5, 4, 3]):
        known = steps[: predictor.depth]
        left = [(torch.randn(4, 257).to(dtype), torch.randn(33, 2).to(dtype)) for _ in known]
        kept = remembered(predictor, left, known)
        for step in range(steps[0] + 1, steps[0] + 7):
            weights = predictor.weights(step, known)
            factors = [torch.tensor(w, dtype=torch.float64) for w in weights]
            for H in (None, (torch.randn(4, 257).to(dtype), torch.randn(33, 2).to(dtype))):
                numbers, tensors = predictor.predict(H, kept, weights), predictor.predict(H, kept, factors)
                assert equal(numbers, tensors) and all(x.dtype == dtype for x in tensors)
