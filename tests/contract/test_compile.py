"""`compile=True`: both graphs whole, two frames for a signature, and nothing compiled again."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch._dynamo.utils import counters

import skipcache
from skipcache import Damped, Forecast, Hold, Threshold
from tests.models.odd import Tiny, run, tiny
from tests.models.originals import Block
from tests.models.sampling import build, equal, sample

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def nothing_is_compiled_again():
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def frames():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(("name", "predictor"), [("dit", Damped()), ("flux_dev", Hold()), ("latte", Forecast(1))])
def test_two_frames_for_a_signature(name, predictor):
    """Over a trajectory, a second one, and one of other length: a full and a cached program, each compiled once."""
    model = build(name).requires_grad_(False)
    expected = sample(name, skipcache.accelerate(build(name), interval=3, predictor=predictor), steps=20)
    skipcache.accelerate(model, interval=3, predictor=predictor, compile={"backend": "aot_eager"})
    outputs = sample(name, model, steps=20)
    sample(name, model, steps=11)
    assert frames() == 2
    report = skipcache.report(model)
    assert report.engine == "fx" and report.reasons == ()
    assert report.ideal_speedup > 1
    for ours, theirs in zip(outputs, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_second_resolution_adds_two_frames():
    model = build("original_dit")
    skipcache.accelerate(model, interval=3, compile={"backend": "aot_eager"})
    generator = torch.Generator().manual_seed(0)
    for side in (4, 6, 4, 6):
        x, y = torch.randn(2, 4, side, side, generator=generator), torch.tensor([1, 2])
        with torch.no_grad():
            for t in range(900, 0, -100):
                model(x, torch.full((2,), t), y)
    assert frames() == 4


def test_a_policy_that_reads_the_drift_has_nothing_compiled_again():
    model = build("original_dit")
    skipcache.accelerate(model, policy=Threshold(1.2), engine="fx", compile={"backend": "aot_eager"})
    for steps in (12, 7):
        sample("original_dit", model, steps=steps)
    assert skipcache.report(model).cached_steps > 3
    assert frames() == 2


def test_inductor():
    model = build("original_dit")
    expected = sample("original_dit", skipcache.accelerate(build("original_dit"), interval=3))
    skipcache.accelerate(model, interval=3, engine="fx", compile=True)
    for ours, theirs in zip(sample("original_dit", model), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    skipcache.restore(model)
    assert not equal(sample("original_dit", model), expected)


class Breaks(Block):
    """Reads a value of a tensor, which no whole graph can."""

    def forward(self, x, c):
        return super().forward(x if x.sum().item() < 1e9 else -x, c)


def test_blocks_that_cannot_be_compiled_whole_are_served_by_the_hooks():
    model = build("original_dit")
    model.blocks = nn.ModuleList(Breaks(16) for _ in range(4)).eval().requires_grad_(False)
    expected = sample("original_dit", skipcache.accelerate(deepcopy(model), interval=3, engine="hooks"))
    skipcache.accelerate(model, interval=3, compile={"backend": "aot_eager"})
    sample("original_dit", model)  # finds out
    assert equal(sample("original_dit", model), expected)
    report = skipcache.report(model)
    assert report.engine == "fx and hooks"
    assert any("torch.compile failed" in reason for reason in report.reasons)
    skipcache.restore(model)
    skipcache.accelerate(model, interval=3, engine="fx", compile={"backend": "aot_eager"})
    with pytest.raises(RuntimeError, match=r"torch\.compile failed"):
        sample("original_dit", model)


def test_adapters_may_come_after_compiling():
    models = [build("flux_dev"), build("flux_dev")]
    skipcache.accelerate(models[0], interval=3)
    skipcache.accelerate(models[1], interval=3, engine="fx", compile={"backend": "aot_eager"})
    before = [sample("flux_dev", model) for model in models]
    for model in models:
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    with torch._dynamo.config.patch(error_on_recompile=False):
        after = [sample("flux_dev", model) for model in models]
    assert not equal(after[0], before[0])
    for ones, others in (before, after):
        for ours, theirs in zip(ones, others):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_outputs_of_replayed_cuda_graphs_are_copied_out():
    """Their memory is written to by the next replay. Told by the mode, so that it can be seen without a GPU."""
    model = build("original_dit")
    skipcache.accelerate(model, interval=3, engine="fx", compile={"mode": "reduce-overhead"})
    (engine,) = model.__dict__["forward"].engines
    held = torch.ones(3)
    programs = type("Programs", (), {"compile": engine.compile})
    from skipcache.engines.fx.programs import Programs

    (copied,) = Programs._own(programs, (held,))
    assert torch.equal(copied, held) and copied.data_ptr() != held.data_ptr()


class Counting:
    """A backend of torch.compile that counts what it compiles and how often that runs."""

    def __init__(self):
        self.made = self.ran = 0

    def __call__(self, graph, _):
        self.made += 1

        def compiled(*args):
            self.ran += 1
            return graph(*args)

        return compiled


def doubling(backend=None):
    def function(h):
        return h * 2 + 1

    if backend is not None:
        function = torch.compile(function, backend=backend)

    class Doubles(Tiny):
        def after(self, h, x, t):
            return function(h)

    return tiny(Doubles)


@pytest.mark.parametrize("engine", ["fx", "hooks", "auto"])
@pytest.mark.parametrize("warm", [True, False])
def test_functions_that_the_forward_compiles_stay_compiled(engine, warm):
    """A trace on tensors without values leaves nothing behind: the compiler neither gives up nor starts anew."""
    backend = Counting()
    model = doubling(backend)
    if warm:
        run(model)
    expected = run(skipcache.accelerate(doubling(), interval=3, engine="hooks"))
    skipcache.accelerate(model, interval=3, engine=engine)
    assert all(map(torch.equal, run(model), expected))
    assert skipcache.report(model).engine == ("fx" if engine == "fx" else "hooks")
    skipcache.restore(model)
    before = backend.ran
    run(model)
    assert backend.ran - before == 7
    assert backend.made == 1
