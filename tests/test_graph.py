"""The fx engine: what it refuses, what it must not bake in, what it survives, and what its graphs hold."""

import contextlib
import gc
import random
import threading
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import skipcache
from skipcache import Delta, Forecast, Hold
from skipcache.forward import CachedForward
from skipcache.graph import MAX_FRUITLESS, MAX_PROGRAMS
from skipcache.override import override_of
from skipcache.program import Programs
from tests.originals import Block, Embed
from tests.sampling import MODELS, build, equal, first, inputs, sample
from tests.zoo import ZOO, randomise


class Tiny(nn.Module):
    """A denoiser whose forward does one more thing between its embedding and its blocks, and one before its outlet."""

    def __init__(self, depth=5, width=16):
        super().__init__()
        self.inlet = nn.Linear(4, width)
        self.time = Embed(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.outlet = nn.Linear(width, 4)
        self.count = 0

    def before(self, h, x, t, **kwargs):
        return h

    def after(self, h, x, t, **kwargs):
        return h

    def forward(self, x, t, **kwargs):
        c = self.time(t if isinstance(t, torch.Tensor) else torch.full((len(x),), float(t)))
        h = self.before(self.inlet(x.flatten(2).transpose(1, 2)), x, t, **kwargs)
        for block in self.blocks:
            h = block(h, c)
        h = self.after(h, x, t, **kwargs)
        return self.outlet(h).transpose(1, 2).reshape(x.shape)


def tiny(kind=Tiny, seed=0, **kwargs):
    torch.manual_seed(seed)
    return randomise(kind(**kwargs), seed).eval().requires_grad_(False)


def noise(side=4, seed=0, batch=2):
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(seed))


def run(model, steps=7, side=4, seed=0, number=False, **kwargs):
    """The outputs of a little Euler run; arguments that are functions are called with the step's index."""
    x, outputs = noise(side, seed), []
    for i, t in enumerate(torch.linspace(950, 50, steps)):
        given = {name: value(i) if callable(value) else value for name, value in kwargs.items()}
        with torch.no_grad():
            outputs.append(model(x, float(t) if number else t.expand(len(x)), **given))
        x = x - outputs[-1] / steps
    return outputs


def programs(model):
    """All programs that the model's fx engine holds."""
    return [p for p in override_of(model, CachedForward).engines[0]._programs.values() if isinstance(p, Programs)]


def graphs(model):
    for made in programs(model):
        yield made.full_program.graph
        for program in made.cached_programs.values():
            yield program.graph


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
        import numpy

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
    def after(self, h, x, t):
        with torch.autocast("cpu", torch.bfloat16):
            return (h @ h.transpose(1, 2)).float() @ h


class BranchesOnItem(Tiny):
    def before(self, h, x, t):
        return h if x.mean().item() > 0 else h * 2


class BranchesOnTruth(Tiny):
    def before(self, h, x, t):
        return h * 2 if (t > 500).all() else h


class ReadsAList(Tiny):
    def before(self, h, x, t):
        return h * t.tolist()[0]


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
}


def seeded(model, **kwargs):
    import numpy

    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    return run(model, **kwargs)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_graph_would_lose_is_refused(kind):
    """fx raises; auto gives what hooks give, or leaves the model alone, and says why."""
    with pytest.raises(RuntimeError, match=f"cannot serve {kind.__name__}: .*{REFUSED[kind]}"):
        seeded(skipcache.accelerate(tiny(kind), interval=3, engine="fx"))

    plain = seeded(tiny(kind))
    assert equal(seeded(skipcache.accelerate(tiny(kind), interval=1)), plain)
    auto = skipcache.accelerate(tiny(kind), interval=3)
    hooks = skipcache.accelerate(tiny(kind), interval=3, engine="hooks")
    with pytest.warns(UserWarning) if kind in UNREPEATABLE else _silence():
        outputs = seeded(auto)
    with pytest.warns(UserWarning) if kind in UNREPEATABLE else _silence():
        assert equal(outputs, seeded(hooks))
    found = skipcache.report(auto)
    assert any(REFUSED[kind] in reason and reason.startswith("fx: ") for reason in found.reasons)
    assert found.cached_steps == (0 if kind in UNREPEATABLE else 4)
    if kind in UNREPEATABLE:
        assert equal(outputs, plain)


# Kinds whose output no second run repeats: hooks refuse them too.
UNREPEATABLE = {Draws, DrawsLike, Drops, DrawsFromPython, DrawsFromNumpy, Counts, CountsInAList, CountsInABuffer}


def _silence():
    return contextlib.nullcontext()


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


@pytest.mark.parametrize("name", ["pixart_alpha", "hunyuan_dit", "qwenimage", "original_pixart"])
def test_masks_of_the_same_shape_are_not_baked_in(name):
    if name not in MODELS and name not in ZOO:
        pytest.skip(f"{name} is not in the zoo")
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
    assert {path: after[path] - before[path] - {"forward", "cache_context"} for path in after} == dict.fromkeys(after, set())
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
    assert equal(run(model), run(hooked))
    for one in (model, hooked):
        one.listed[0].mul_(2)
    assert equal(run(model), run(hooked))


# Signatures


def test_a_change_of_shape_never_runs_another_signature_s_program():
    for name in ("cogvideox", "wan"):
        model, hooked = (skipcache.accelerate(build(name), interval=3, engine=e) for e in ("fx", "hooks"))
        kwargs, x_name, _ = inputs(name, model)
        sizes = [kwargs[x_name].shape[-1], kwargs[x_name].shape[-1] // 2]

        def resized(one, size):
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


def test_gradient_checkpointing_may_be_on():
    for name in ("dit", "flux_dev", "latte"):
        model, hooked = build(name), build(name)
        for one, engine in ((model, "fx"), (hooked, "hooks")):
            one.enable_gradient_checkpointing()
            skipcache.accelerate(one, interval=3, engine=engine)
        expected = sample(name, hooked)
        assert equal(sample(name, model), expected)
        for one in (model, hooked):
            one.disable_gradient_checkpointing()
        assert equal(sample(name, model), expected)
        model.enable_gradient_checkpointing()
        assert equal(sample(name, model), expected)
