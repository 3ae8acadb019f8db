"""What the graphs hold, what they read anew, and what tracing leaves behind."""

import collections
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import skipcache
from skipcache import Forecast, Hold
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.programs import Programs
from skipcache.predictors.base import Prediction, remembered
from skipcache.trajectory import CallReader
from tests.models.defaults import DEFAULT_PREDICTORS
from tests.models.odd import Tiny, programs, run, tiny
from tests.models.sampling import build, deep, equal, sample
from tests.models.traces import STACK, Glued, arguments, deep_of, glued, recorded


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
    ours = {"forward", "cache_context", "_skipcache", "_replicate_for_data_parallel"}
    assert all(after[path] - before[path] <= ours for path in after)
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


# The programs of one signature, without an engine


def programs_of(kind=Glued, keep=1, compile=False):
    """The programs of a small model, its call, and what its full step left."""
    model, args = glued(kind), arguments()
    call = CallReader(("x", "t"), "x", "t").read(args, {})
    deep = deep_of(keep)
    made = Programs.of(type(model).forward, model, STACK, deep, recorded(model, args, deep), call, compile)
    with torch.no_grad():
        return made, model, args, made.full(args, {})


def test_programs_give_the_model_s_output_on_other_values_and_say_what_ran():
    made, model, _, (_, features) = programs_of()
    held = Prediction(Hold(), [features.D], (), residual=False, observe=lambda H: None)
    other = arguments(seed=5, t=0.9)
    with torch.no_grad():
        output, (H, D) = made.full(other, {})
        assert torch.equal(output["eps"], model(*other)["eps"]) and made.full_program.blocks == 4
        cached, blocks = made.cached(other, {}, replace(held, kept=[D]))
    assert torch.equal(cached["eps"], output["eps"]) and blocks == 2 and len(H) == len(D) == 1


def test_a_cached_program_is_made_once_for_each_kind_of_prediction():
    made, _, args, (_, (H, D)) = programs_of()
    seen = []
    predictions = [
        Prediction(Hold(), [D], (), residual=False),
        Prediction(Hold(), [D], (), residual=False, observe=seen.append),
        Prediction(Forecast(1), Forecast(1).remember(D, (), [0]), (0.5,), residual=False),
    ]
    with torch.no_grad():
        for prediction in (*predictions, *predictions, replace(predictions[2], weights=(2.0,))):
            made.cached(args, {}, prediction)
    assert len(made.cached_programs) == 3
    assert len(seen) == 2 and all(torch.equal(h, H[0]) for (h,) in seen)
    assert made.graphs.full is made.full_program.graph


def test_a_program_runs_against_the_live_model():
    made, model, args, _ = programs_of()
    model.gain.data.mul_(3)
    model.outlet = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(made.full(args, {})[0]["eps"], model(*args)["eps"])


class Overwrites(Glued):
    """Writes to what the head hands out."""

    def between(self, x, i):
        return x.mul_(2) if i == 1 else x


def test_features_that_are_written_to_are_refused_by_name():
    with pytest.raises(Untraceable, match=r"writes in place to what blocks\.0 takes or returns"):
        programs_of(Overwrites)


def test_eager_runs_what_was_not_compiled():
    made, _, args, (output, features) = programs_of(compile={"backend": "aot_eager"})
    held = Prediction(Hold(), [features.D], (), residual=False)
    with torch.no_grad():
        assert made.full_program.run is not made.full_program.eager
        assert torch.equal(made.full(args, {}, eager=True)[0]["eps"], output["eps"])
        assert torch.equal(made.cached(args, {}, held, eager=True)[0]["eps"], output["eps"])


def test_outputs_of_replayed_programs_are_the_caller_s_own():
    made, _, args, _ = programs_of()
    memory = torch.zeros(2, 3)
    replaying = replace(made.full_program, run=lambda *given: ((memory,), (memory,), (memory,)))
    for mode, own in (("reduce-overhead", True), ("default", False)):
        found = replace(made, compile={"mode": mode}, full_program=replaying).full(args, {})
        assert (found[0]["eps"] is not memory) is own


class Squares(Tiny):
    """A power of the timestep in the glue, as schedules of the scale write it."""

    def before(self, h, x, t):
        return h * (1 + (t / 1000) ** 2)[:, None, None] + 0.5 ** (t / 1000)[:, None, None]


def test_a_power_in_the_glue_is_served_by_both_engines_alike():
    graphs, hooked = (skipcache.accelerate(tiny(Squares), interval=3, engine=e) for e in ("fx", "hooks"))
    assert equal(run(graphs), run(hooked))
    assert skipcache.report(graphs).cached_steps == skipcache.report(hooked).cached_steps == 4
