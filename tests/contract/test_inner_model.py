"""A model that runs a denoiser twice in one call, for guidance: accelerating the one is accelerating the other."""

import copy

import pytest
import torch
from torch import nn

import skipcache
from tests.models.odd import Tiny, noise, tiny
from tests.models.reuse import watched, wrong

ENGINES = ["auto", "fx", "hooks"]
STEPS = 7


class Told(Tiny):
    def before(self, h, x, t, text):
        return h + text


class Scaled(nn.Module):
    """Takes a noise level, and runs its denoiser once."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, sigma, text):
        return x + self.inner(x / 2, 100 * sigma, text=text)


class Guided(nn.Module):
    """Two texts in one call, one behind the other."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x, sigma, text, scale=2.0):
        self.calls += 1
        without = self.inner(x, sigma, text=torch.zeros_like(text))
        return without + scale * (self.inner(x, sigma, text=text) - without)


def guided(wrapped=True):
    denoiser = tiny(Told)
    return Guided(Scaled(denoiser) if wrapped else denoiser).eval(), denoiser


@torch.no_grad()
def sampled(model, steps=STEPS):
    x, text, found = noise(batch=1), torch.ones(1), []
    for sigma in torch.linspace(9.5, 0.5, steps):
        found.append(model(x, sigma.expand(1), text))
        x = x - found[-1] / steps
    return torch.stack(found)


def attributes(model):
    return {name: dict(module.__dict__) for name, module in model.named_modules()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_it_gives_what_the_denoiser_accelerated_by_itself_gives(engine, wrapped):
    model, _ = guided(wrapped)
    theirs, _ = guided(wrapped)
    skipcache.accelerate(theirs.inner, engine=engine)
    skipcache.accelerate(model, engine=engine)
    texts = iter(("without", "with") * STEPS * 2)
    with watched(lambda: next(texts)) as log:
        first = sampled(theirs)
    assert not wrong(log)
    for run in range(2):
        assert torch.equal(sampled(model), first), run
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, report.full_at) == (6, 8, (0, 3, 6))
    assert "is accelerated in place of the model around it" in report.reasons[0]
    assert model.calls == 2 * STEPS, "what it counts it counts once for each call"
    plain = skipcache.restore(model)
    assert torch.equal(sampled(plain), sampled(guided(wrapped)[0]))


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_left_of_it(engine):
    model, _ = guided()
    before = attributes(model)
    with skipcache.accelerated(model, engine=engine):
        sampled(model)
    before[""]["calls"] = model.calls
    assert attributes(model) == before
    assert torch.equal(sampled(skipcache.accelerate(model, 1, engine=engine)), sampled(guided()[0])), "and it is exact"


@pytest.mark.parametrize("engine", ENGINES)
def test_it_stays_accelerated_with_the_settings_that_were_asked_for(engine):
    model, _ = guided()
    found = sampled(skipcache.accelerate(model, engine=engine))
    skipcache.accelerate(model, engine=engine)
    with pytest.raises(ValueError, match="accelerated with other settings"):
        skipcache.accelerate(model, 4, engine=engine)
    assert torch.equal(sampled(model), found)
    assert torch.equal(sampled(copy.deepcopy(model)), found)
    with skipcache.run(model, "one", interval=1):
        assert torch.equal(sampled(model), sampled(guided()[0]))


def test_a_window_of_timesteps_is_that_of_the_model_that_it_was_given_for():
    model, denoiser = guided()
    skipcache.accelerate(model, policy=skipcache.Interval(3, start=5))
    with pytest.warns(UserWarning, match="skipcache caches nothing"):
        found = sampled(model)
    assert torch.equal(found, sampled(guided()[0]))
    assert any("the blocks did not run once each" in reason for reason in skipcache.report(model).reasons)
    skipcache.restore(model)
    with pytest.raises(ValueError, match="is not accelerated"):
        skipcache.report(denoiser)
