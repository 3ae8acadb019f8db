"""Blocks that are compiled by `compile_repeated_blocks`, before or after: compiled code stays, and is not made anew."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import skipcache
from tests.models.pipelines import flux, run_flux, run_wan, wan
from tests.models.sampling import build, equal, sample

pytestmark = pytest.mark.thorough

STEPS = 4
PIPES = {"flux": (flux, run_flux), "wan": (wan, run_wan)}


@pytest.fixture(autouse=True)
def nothing_is_left_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("compiled_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("name", PIPES)
def test_pipelines(name, engine, compiled_first):
    make, run = PIPES[name]
    expected = run(skipcache.accelerate(make(), policy=skipcache.Interval(3), engine=engine), steps=STEPS)
    pipe, plain, compiled = make(), run(make(), steps=STEPS), CompileCounter()
    if compiled_first:
        pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=compiled)
    skipcache.accelerate(pipe, policy=skipcache.Interval(3), engine=engine)
    if not compiled_first:
        pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=compiled)
    first = run(pipe, steps=STEPS)
    made = compiled.frame_count
    assert made and torch.allclose(first, expected, atol=1e-5)
    assert torch.equal(run(pipe, steps=STEPS), first) and compiled.frame_count == made
    report = skipcache.report(pipe)
    assert (report.full_steps, report.cached_steps, report.reasons) == (4, 4, ())
    skipcache.restore(pipe)
    assert torch.allclose(run(pipe, steps=STEPS), plain, atol=1e-5)


@pytest.mark.parametrize("name", ["glm_image", "hunyuan_image"])
def test_models_that_graphs_cannot_serve(name):
    expected = sample(name, skipcache.accelerate(build(name), policy=skipcache.Interval(2)), steps=4)
    model = build(name)
    model.compile_repeated_blocks(backend="eager")
    skipcache.accelerate(model, interval=2)
    outputs = sample(name, model, steps=4)
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(outputs, expected))
    assert equal(sample(name, model, steps=4), outputs)
    assert skipcache.report(model).engine == "hooks" and skipcache.report(model).cached_steps == 4
