"""Both of fx's graphs compiled: whole, twice, and never again."""

import copy

import pytest
import torch
from torch import nn

import skipcache
from skipcache import Delta, Forecast, Hold
from skipcache.forward import CachedForward
from skipcache.override import override_of
from skipcache.program import Programs
from tests.sampling import build, equal, sample
from tests.test_graph import Tiny, run, tiny


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Mlp(nn.Module):
    """Without nn.MultiheadAttention, which rounds otherwise when it is compiled."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x, c):
        return x + self.mlp(self.norm(x) * (1 + c[:, None]))


class Plain(Tiny):
    def __init__(self, depth=4, width=16):
        super().__init__(depth, width)
        self.blocks = nn.ModuleList(Mlp(width) for _ in range(depth))


class Counting:
    """A backend that counts the frames that it is given, and runs them as they are."""

    def __init__(self):
        self.frames = 0

    def __call__(self, graph, example_inputs):
        self.frames += 1
        return graph.forward


@pytest.mark.parametrize("predictor", [Forecast(1), Forecast(2), Delta(), Hold()])
def test_exactly_two_frames_are_compiled(predictor):
    counting = Counting()
    model = skipcache.accelerate(tiny(Plain), 3, predictor=predictor, engine="fx", compile={"backend": counting})
    plain = skipcache.accelerate(tiny(Plain), 3, predictor=predictor, engine="hooks")
    with torch._dynamo.config.patch(error_on_recompile=True):
        outputs = run(model, steps=20)
        assert counting.frames == 2
        assert equal(outputs, run(plain, steps=20))
        assert equal(run(model, steps=20, seed=1), run(plain, steps=20, seed=1)) and counting.frames == 2
        assert equal(run(model, side=6, steps=20), run(plain, side=6, steps=20))
        assert counting.frames == 4
        assert equal(run(model, steps=20), outputs) and counting.frames == 4
    report = skipcache.report(model)
    assert report.engine == "fx" and report.ideal_speedup > 1 and counting.frames == 4


@pytest.mark.parametrize("name", ["dit", "latte"])
def test_denoisers_compile_whole(name):
    counting = Counting()
    model = skipcache.accelerate(build(name), 3, engine="fx", predictor=Forecast(1), compile={"backend": counting})
    plain = skipcache.accelerate(build(name), 3, engine="hooks", predictor=Forecast(1))
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert equal(sample(name, model, steps=8), sample(name, plain, steps=8))
    assert counting.frames == 2
    skipcache.report(model)
    assert equal(sample(name, model, steps=8), sample(name, plain, steps=8)) and counting.frames == 2


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_backends_come_out_as_eager_does(backend):
    model = skipcache.accelerate(tiny(Plain), 3, engine="fx", compile={"backend": backend})
    plain = skipcache.accelerate(tiny(Plain), 3, engine="hooks")
    with torch._dynamo.config.patch(error_on_recompile=True):
        outputs, expected = run(model), run(plain)
    for one, other in zip(outputs, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert skipcache.report(model).cached_steps == 4 and skipcache.report(model).engine == "fx"
    for one, other in zip(run(model), outputs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)  # the very first step ran as ever


def test_auto_compiles_too_and_no_block_is_overridden():
    counting = Counting()
    model = skipcache.accelerate(build("dit"), 3, compile={"backend": counting})
    sample("dit", model)
    assert counting.frames == 2
    assert not any("forward" in model.get_submodule(p).__dict__ for p in skipcache.find_stack(model).blocks)


def test_a_copy_compiles_for_itself():
    counting = Counting()
    model = skipcache.accelerate(tiny(Plain), 3, engine="fx", compile={"backend": counting})
    outputs = run(model)
    other = copy.deepcopy(model)
    assert equal(run(other), outputs) and equal(run(model), outputs)


def test_changed_weights_and_parts_are_seen_by_compiled_programs():
    ours = skipcache.accelerate(tiny(Plain), 3, engine="fx", compile={"backend": Counting()})
    theirs = skipcache.accelerate(tiny(Plain), 3, engine="hooks")
    outputs = run(ours)
    assert equal(outputs, run(theirs))
    for one in (ours, theirs):
        one.blocks[0].mlp[0].weight.data.mul_(2)
    assert not equal(run(ours), outputs) and equal(run(ours), run(theirs))
    for one in (ours, theirs):
        one.outlet = nn.Sequential(one.outlet, nn.Tanh())
    assert equal(run(ours), run(theirs))


def test_outputs_of_replayed_graphs_are_copied():
    """Modes that replay CUDA graphs write the next outputs where these lie."""
    for mode, copied in (("reduce-overhead", True), ("max-autotune", True), ("default", False)):
        model = skipcache.accelerate(tiny(Plain), 3, engine="fx")
        run(model)
        (made,) = (
            p for p in override_of(model, CachedForward).engines[0]._programs.values() if isinstance(p, Programs)
        )
        made.compile = {"mode": mode}
        x = torch.ones(2)
        (y,) = made._own((x,))
        assert torch.equal(x, y) and (y is not x) == copied


class BreaksTheGraph(Plain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.odd = Odd()

    def before(self, h, x, t):
        return self.odd(h)


class Odd(nn.Module):
    def forward(self, h):
        torch._dynamo.graph_break()
        return h + 1


def test_what_does_not_compile_whole_says_so():
    model = skipcache.accelerate(tiny(BreaksTheGraph), 3, engine="fx", compile={"backend": "eager"})
    with pytest.raises(torch._dynamo.exc.Unsupported):
        run(model)
