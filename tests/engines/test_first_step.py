"""The first step of a signature is proved without a block: each runs once, and little more memory is held."""

from collections import Counter

import pytest
import torch
from torch import nn

import skipcache
from tests.models.grafted import grafted
from tests.models.odd import Tiny, noise, tiny
from tests.models.peak import peak_of
from tests.models.sampling import build, equal, inputs, sample

FAMILIES = ["dit", "latte", "flux_dev", "wan", "original_latte"]


def counted(model):
    """How often each block ran, counted by hooks of torch's on the blocks themselves."""
    ran = Counter()
    for path in skipcache.find_stack(model).blocks:
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.update([path]))
    return ran


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("engine", "keep"), [("hooks", 1), ("hooks", 0), ("fx", 1)])
def test_each_block_runs_once_on_the_first_step(name, engine, keep):
    model = build(name)
    expected, ran = sample(name, model, steps=1), counted(model)
    skipcache.accelerate(model, interval=3, keep=keep, engine=engine)
    assert equal(sample(name, model, steps=1), expected)
    assert ran == Counter(skipcache.find_stack(model).blocks)
    report = skipcache.report(model)
    assert report.engine == engine and not report.reasons
    ran.clear()
    sample(name, model, steps=3)
    assert skipcache.report(model).cached_steps == 2, "the step that was proved is followed by cached ones"


@pytest.mark.parametrize("engine", ["hooks", "fx"])
def test_nor_do_they_run_twice_in_inference_mode_or_for_the_lanes_of_guidance(engine):
    model = build("dit")
    ran = counted(model)
    skipcache.accelerate(model, interval=3, engine=engine)
    kwargs, _, _ = inputs("dit", model)
    with torch.inference_mode():
        for label in (1, 2):
            kwargs["class_labels"] = torch.full_like(kwargs["class_labels"], label)
            model(**kwargs, timestep=torch.full_like(kwargs["class_labels"], 900))
    assert ran == Counter(dict.fromkeys(skipcache.find_stack(model).blocks, 2))
    assert skipcache.report(model).engine == engine and not skipcache.report(model).reasons


@pytest.mark.parametrize("engine", ["hooks", "fx"])
@pytest.mark.parametrize("fuse", ["add", "concat"])
@pytest.mark.parametrize("name", ["dit", "latte"])
def test_nor_do_blocks_that_branches_join(name, fuse, engine):
    model = grafted(name, fuse)
    expected, ran = sample(name, model, steps=1), counted(model)
    skipcache.accelerate(model, interval=3, engine=engine)
    assert equal(sample(name, model, steps=1), expected)
    assert ran == Counter(skipcache.find_stack(model).blocks)
    sample(name, model, steps=3)
    assert skipcache.report(model).cached_steps == 2 and skipcache.report(model).engine == engine


class Compiles(Tiny):
    """Torch's own attention, and a function that the forward compiles, between the blocks and behind them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.compiled = []

        def compiler(graph, _):
            self.compiled.append(graph)
            return graph.forward

        self.scale = torch.compile(scaled, backend=compiler)

    def before(self, h, x, t):
        return self.scale(h + self.attention(h, h, h, need_weights=False)[0])

    def after(self, h, x, t):
        return self.scale(h + self.attention(h, h, h, need_weights=False)[0])


def scaled(h):
    return h * 0.5


@pytest.mark.parametrize("keep", [0, 1])
def test_the_first_step_keeps_its_bits_and_compiles_nothing_anew(keep):
    torch.compiler.reset()
    plain, model = tiny(Compiles), tiny(Compiles)
    x, t = noise(), torch.full((2,), 950.0)
    with torch.no_grad():
        expected = plain(x, t)
        model(x, t)
        before = len(model.compiled)
        skipcache.accelerate(model, interval=3, keep=keep, engine="hooks")
        assert torch.equal(model(x, t), expected)
    assert before == len(model.compiled) == 1 and not skipcache.report(model).reasons


@pytest.mark.parametrize("name", ["latte", "flux_dev"])
def test_nor_does_a_block_run_twice_where_the_full_program_is_proved_too(name):
    model = build(name)
    ran = counted(model)
    skipcache.accelerate(model, interval=3, engine="fx", compile={"backend": "eager"})
    sample(name, model, steps=1)
    assert ran == Counter(skipcache.find_stack(model).blocks)


class Long(Tiny):
    """A stack in which each block is given what the one before it returned; one more feature is made of its end."""

    def after(self, h, x, t):
        return h * 1.5


@pytest.mark.parametrize("engine", ["hooks", "fx"])
@pytest.mark.parametrize("keep", [1, 5])
def test_the_proof_holds_no_more_than_the_cache_and_two_features(engine, keep):
    model = tiny(Long, depth=14, width=32)
    x = noise(side=24)
    call = lambda: model(x, torch.full((2,), 500.0))  # noqa: E731
    D = 2 * 24 * 24 * 32 * 4
    plain = peak_of(call, D)
    skipcache.accelerate(model, interval=3, keep=keep, engine=engine)
    first = peak_of(call, D)
    assert plain > 3 * D and first <= plain + skipcache.report(model).cache_bytes // D * D + 2 * D
