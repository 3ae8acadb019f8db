"""The fx engine: what it refuses, what it must not bake in, what it leaves behind, and what its graphs hold."""

import collections
import contextlib
import random
import warnings

import numpy
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import skipcache
from skipcache import Damped, Forecast, Hold
from skipcache.blocks.override import override_of
from skipcache.engines.fx.engine import MAX_FRUITLESS, MAX_PROGRAMS
from skipcache.predictors.base import remembered
from skipcache.runtime.forward import CachedForward
from tests.models.odd import Tiny, noise, programs, run, tiny
from tests.models.sampling import build, deep, equal, first, inputs, sample

# What a graph would lose


class InPlaceOnFeatures(Tiny):
    def before(self, h, x, t):
        h += 1
        return h


class InPlaceByMethod(Tiny):
    def after(self, h, x, t):
        return h.mul_(2)


class InPlaceIntoASlice(Tiny):
    def after(self, h, x, t):
        h[:, 0] = 0
        return h


class InPlaceThroughAView(Tiny):
    def after(self, h, x, t):
        y = h + 1
        y[:, :2].zero_()
        return y


class Draws(Tiny):
    def before(self, h, x, t):
        return h + torch.randn(h.shape)


class DrawsLike(Tiny):
    def after(self, h, x, t):
        return h + torch.rand_like(h)


class Drops(Tiny):
    def after(self, h, x, t):
        return nn.functional.dropout(h, 0.5, training=True)


class DrawsFromPython(Tiny):
    def before(self, h, x, t):
        return h * random.random()


class DrawsFromNumpy(Tiny):
    def before(self, h, x, t):
        return h * float(numpy.random.rand())


class Counts(Tiny):
    def before(self, h, x, t):
        self.count += 1
        return h + self.count


class CountsInAList(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def before(self, h, x, t):
        self.seen.append(0)
        return h * len(self.seen)


class CountsInABuffer(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("calls", torch.zeros(()))

    def before(self, h, x, t):
        self.calls += 1
        return h * self.calls


class Autocasts(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mix = nn.Linear(16, 16)

    def after(self, h, x, t):
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.linear(h, self.mix.weight).float()


class BranchesOnItem(Tiny):
    def before(self, h, x, t):
        return h if x.mean().item() > 0 else h * 2


class BranchesOnTruth(Tiny):
    def before(self, h, x, t):
        return h * 2 if (t > 500).all() else h


class ReadsAList(Tiny):
    def before(self, h, x, t):
        return h * t.tolist()[0]


class SwitchesGradMode(Tiny):
    def before(self, h, x, t):
        with torch.enable_grad():
            return h * 2


class KeepsATensor(Tiny):
    def before(self, h, x, t):
        self.hidden = h
        return h


REFUSED = {
    InPlaceOnFeatures: "in place",
    InPlaceByMethod: "in place",
    InPlaceIntoASlice: "in place",
    InPlaceThroughAView: "in place",
    Draws: "random",
    DrawsLike: "random",
    Drops: "random",
    DrawsFromPython: "Python's random",
    DrawsFromNumpy: "NumPy",
    Counts: "sets count",
    CountsInAList: "sets seen",
    CountsInABuffer: "in place",
    Autocasts: "autocast",
    BranchesOnItem: "",
    BranchesOnTruth: "",
    ReadsAList: "",
    SwitchesGradMode: "grad",
    KeepsATensor: "sets hidden",
}


# Behind the deep blocks, so that no second run repeats the output: hooks refuse these too.
UNREPEATABLE = {DrawsLike, Drops}


def seeded(model, **kwargs):
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    return run(model, **kwargs)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_graph_would_lose_is_refused(kind):
    """fx raises; auto gives what hooks give, or leaves the model alone, and says why."""
    with pytest.raises(RuntimeError, match=f"cannot serve {kind.__name__}: .*{REFUSED[kind]}"):
        seeded(skipcache.accelerate(tiny(kind), interval=3, engine="fx"))

    plain = seeded(tiny(kind))
    assert equal(seeded(skipcache.accelerate(tiny(kind), interval=1)), plain)
    auto, hooks = (skipcache.accelerate(tiny(kind), interval=3, engine=engine) for engine in ("auto", "hooks"))
    alone = kind in UNREPEATABLE
    with pytest.warns(UserWarning, match="did not give") if alone else contextlib.nullcontext():
        outputs = seeded(auto)
    with pytest.warns(UserWarning, match="did not give") if alone else contextlib.nullcontext():
        assert equal(outputs, seeded(hooks))
    found = skipcache.report(auto)
    assert any(REFUSED[kind] in reason and reason.startswith("fx: ") for reason in found.reasons)
    assert found.cached_steps == (0 if alone else 4) and equal(outputs[:1], plain[:1])
    if alone:
        assert equal(outputs, plain)
    if kind in (Counts, CountsInAList, CountsInABuffer):
        assert 7 in (auto.count, len(getattr(auto, "seen", ())), float(getattr(auto, "calls", 0)))


@pytest.mark.parametrize("kind", [Draws, DrawsFromPython, DrawsFromNumpy], ids=lambda kind: kind.__name__)
def test_trials_take_no_random_numbers_from_the_run(kind):
    """What a forward draws is what it would have drawn alone, however often the model was tried out."""

    def drawn(model):
        return seeded(model), (random.random(), numpy.random.rand(), torch.rand(()).item())

    plain, rest = drawn(tiny(kind))
    for engine in ("auto", "hooks"):
        outputs, left = drawn(skipcache.accelerate(tiny(kind), interval=100, engine=engine))
        assert left == rest and torch.equal(outputs[0], plain[0])


class Fussy(Hold):
    """A predictor that looks at values on the host."""

    def predict(self, H, kept, weights):
        return super().predict(H, kept, weights) if kept[0][0].sum().item() < 1e9 else ()


def test_a_predictor_that_cannot_be_traced_is_left_to_hooks():
    model = skipcache.accelerate(build("dit"), interval=3, predictor=Fussy())
    sample("dit", model)
    report = skipcache.report(model)
    assert report.cached_steps > 0 and report.engine == "fx and hooks"


class WritesToItsSample(Tiny):
    def before(self, h, x, t):
        x.mul_(0.5)
        return h


def test_a_forward_that_writes_to_its_arguments_writes_once():
    def final(model):
        x, t = noise(), torch.full((2,), 500)
        with torch.no_grad():
            outputs = [model(x, t - i).clone() for i in range(4)]
        return [*outputs, x]

    plain = final(tiny(WritesToItsSample))
    with pytest.warns(UserWarning, match="writes to its arguments"):
        assert equal(final(skipcache.accelerate(tiny(WritesToItsSample), interval=2)), plain)


class Masks(Tiny):
    """The shape of what is computed depends on no value, the values on the mask."""

    def before(self, h, x, t, mask, scale=None):
        bias = (1 - mask.to(h.dtype)) * -10
        h = torch.where(mask.bool()[..., None], h, h * 0.5) + bias[..., None].softmax(1)
        return h if scale is None else h * scale


@pytest.mark.parametrize("name", ["pixart_alpha", "hunyuan_dit", "qwen_image", "original_pixart"])
def test_masks_of_the_same_shape_are_not_baked_in(name):
    given = inputs(name, build(name))[0]
    masks = [key for key, x in given.items() if "mask" in key and isinstance(x, torch.Tensor)]
    assert masks, "this model takes a mask"

    def outputs(engine):
        model = skipcache.accelerate(build(name), interval=2, engine=engine)

        def masked(keep):
            def call(**kwargs):
                for key in masks:
                    kwargs[key] = kwargs[key].clone()
                    kwargs[key].view(len(kwargs[key]), -1)[:, keep:] = 0
                return model(**kwargs)

            return call

        return [sample(name, model, steps=4, call=masked(keep)) for keep in (6, 2)], model

    (long, short), model = outputs("fx")
    assert len(programs(model)) == 1
    assert not equal(long, short)
    for ours, theirs in zip((long, short), outputs("hooks")[0]):
        assert equal(ours, theirs)


def test_masks_in_a_forward_of_one_s_own():
    masks = [torch.ones(2, 16), (torch.arange(16) < 5).float().expand(2, -1).contiguous()]
    model, hooked = (skipcache.accelerate(tiny(Masks), interval=3, engine=e) for e in ("fx", "hooks"))
    outputs = [run(model, mask=mask) for mask in masks]
    assert len(programs(model)) == 1 and not equal(*outputs)
    assert equal(outputs[0], run(hooked, mask=masks[0])) and equal(outputs[1], run(hooked, mask=masks[1]))


# What is left behind


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


# Signatures


def test_a_change_of_shape_never_runs_another_signature_s_program():
    for name in ("cogvideox", "wan"):
        model, hooked = (skipcache.accelerate(build(name), interval=3, engine=e) for e in ("fx", "hooks"))
        kwargs, x_name, _ = inputs(name, model)
        sizes = [kwargs[x_name].shape[-1], kwargs[x_name].shape[-1] // 2]

        def resized(one, size, x_name=x_name, sizes=sizes):
            def call(**given):
                given[x_name] = given[x_name][..., :size, :size].contiguous()
                output = first(one(**given))
                assert output.shape[-1] == size
                return torch.nn.functional.pad(output, (0, sizes[0] - size, 0, sizes[0] - size))

            return call

        for size in (*sizes, *sizes):
            outputs = [sample(name, one, call=resized(one, size)) for one in (model, hooked)]
            assert equal(*outputs)
        assert len(programs(model)) == 2


def test_dtype_batch_and_size_have_programs_of_their_own():
    model, hooked = (skipcache.accelerate(tiny(), interval=3, engine=e) for e in ("fx", "hooks"))
    for side in (4, 6, 4, 2, 6):
        assert equal(run(model, side=side), run(hooked, side=side))
    assert len(programs(model)) == 3


class Scales(Tiny):
    def before(self, h, x, t, scale):
        return h * scale


def test_a_python_value_that_changes_at_every_step_makes_fx_give_up():
    def scale(i):
        return 1.0 + i / 10

    steps = MAX_FRUITLESS + 5
    plain = run(tiny(Scales), steps=steps, scale=scale)
    model = skipcache.accelerate(tiny(Scales), interval=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert equal(run(model, steps=steps, scale=scale), plain), "no signature came twice: full steps"
        engine = override_of(model, CachedForward).engines[0]
        assert len(programs(model)) <= MAX_FRUITLESS
        for round in range(3):
            run(model, steps=20, scale=lambda i, round=round: 100.0 * (round + 1) + i)
    assert any("differ in more than their tensors" in r for r in skipcache.report(model).reasons)
    assert len(engine._programs) <= MAX_PROGRAMS and len(programs(model)) <= MAX_FRUITLESS
    with pytest.raises(RuntimeError, match="differ in more than their tensors"):
        run(skipcache.accelerate(tiny(Scales), interval=3, engine="fx"), steps=steps, scale=scale)


def test_a_python_value_that_stays_is_part_of_the_signature():
    model, hooked = (skipcache.accelerate(tiny(Scales), interval=3, engine=e) for e in ("fx", "hooks"))
    for scale in (1.0, 2.0, 1.0, 1, True):
        assert equal(run(model, scale=scale), run(hooked, scale=scale))


def test_a_timestep_that_is_a_python_number_is_not_baked_in():
    with pytest.raises(RuntimeError, match="Python number"):
        run(skipcache.accelerate(tiny(), interval=3, engine="fx"), number=True)
    model, hooked = (skipcache.accelerate(tiny(), interval=3, engine=e) for e in ("auto", "hooks"))
    assert equal(run(model, number=True), run(hooked, number=True))
    assert skipcache.report(model).engine == "hooks" and skipcache.report(model).cached_steps == 4
    assert equal(run(model), run(hooked))
    assert skipcache.report(model).engine == "hooks and fx"


@pytest.mark.parametrize("name", ["cogvideox", "wan", "dit", "latte"])
def test_a_program_is_never_run_on_another_batch(name):
    model = skipcache.accelerate(build(name), interval=2, engine="fx")
    kwargs, _, t = inputs(name, model)
    single = {k: v[:1] if isinstance(v, torch.Tensor) and len(v) == 2 else v for k, v in kwargs.items()}
    with torch.no_grad():
        for call, batch in ((kwargs, 2), (single, 1), (kwargs, 2)):
            for step in (900, 800):
                assert len(model(**call, **{t: torch.full((batch,), step)})[0]) == batch
    assert len(programs(model)) == 2


# What the graphs hold


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


# Weights as tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("predictor", [Forecast(1), Forecast(2), Damped()])
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
