"""The first step of a signature is proved without a block: each runs once, and little more memory is held."""

from collections import Counter

import pytest
import torch

import skipcache
from tests.models.odd import Tiny, noise, tiny
from tests.models.peak import peak_of
from tests.models.sampling import build, equal, sample

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
