"""Equal arguments are not the same run: what must never be reused, and what may."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import HookRegistry, LayerSkipConfig
from diffusers.hooks.layer_skip import _apply_layer_skip_hook
from torch.func import functional_call

import skipcache
from tests.models.devices import as_on_device
from tests.models.pipelines import denoiser, randn
from tests.models.reuse import watched, wrong

ENGINES = ["fx", "hooks"]
STEPS = 9


def wan():
    return denoiser("wan", num_layers=6)


def call(model, x, t, text):
    return model(x, timestep=t.expand(1), encoder_hidden_states=text, return_dict=False)[0]


def skipped(model, x, t, text):
    """A pass with two blocks left out, as skip-layer guidance makes it."""
    _apply_layer_skip_hook(model, LayerSkipConfig(indices=[2, 3], fqn="blocks"), name="slg")
    try:
        return call(model, x, t, text)
    finally:
        HookRegistry.check_if_exists_or_initialize(model).remove_hook("slg", recurse=True)


def weaker(model, x, t, text):
    """A pass with other weights, as autoguidance makes it."""
    weights = {name: p * 0.5 for name, p in model.named_parameters()}
    kwargs = {"timestep": t.expand(1), "encoder_hidden_states": text, "return_dict": False}
    return functional_call(model, weights, (x,), kwargs)[0]


@torch.no_grad()
def outputs(model, passes, steps=STEPS, note=lambda name: None):
    """By step the outputs of all passes. The sampler follows the conditional pass alone, whatever else is called."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    x, texts = randn(1, 4, 3, 8, 8), {"cond": randn(1, 6, 12, seed=1), "uncond": randn(1, 6, 12, seed=2)}
    found = []
    for t in scheduler.timesteps:
        ways, step = {"skipped": skipped, "weaker": weaker}, {}
        for name in passes:
            note(name)
            step[name] = ways.get(name, call)(model, x, t, texts.get(name, texts["cond"]))
        x = scheduler.step(step["cond"], t, x, return_dict=False)[0]
        found.append(step)
    return found


@pytest.mark.filterwarnings("ignore:skipcache caches nothing. inside, the forward differs:UserWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", ["skipped", "weaker"])
@pytest.mark.parametrize("order", [0, 1, 2], ids=["last", "between", "first"])
def test_a_pass_of_another_state_neither_gives_nor_takes_features(engine, other, order):
    passes = ["cond", "uncond"]
    alone = outputs(skipcache.accelerate(wan(), interval=3, engine=engine), passes)
    passes.insert(2 - order, other)
    model = skipcache.accelerate(wan(), interval=3, engine=engine)
    both, plain = outputs(model, passes), outputs(wan(), passes)
    for step, (mine, theirs) in enumerate(zip(both, alone)):
        if order != 2:  # a run that begins with the other pass takes that one for its own at first
            assert torch.equal(mine["cond"], theirs["cond"]), step
        assert torch.equal(mine["uncond"], theirs["uncond"]) or order == 2, step
    if order != 2:
        assert skipcache.report(model).blocks_saved == 2 * 6 * 4, "two lanes, six cached steps, four blocks"
        assert any("repeated" in reason for reason in skipcache.report(model).reasons)
    # the first pass of all is exact, and so is every pass that ran plain on an exact sample
    assert torch.equal(both[0][other], plain[0][other])


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", ["skipped", "weaker"])
@pytest.mark.parametrize("lanes", [["cond"], ["cond", "uncond"]], ids=len)
@pytest.mark.parametrize("device", [nullcontext, as_on_device])
def test_a_pass_that_goes_first_costs_the_others_one_step(lanes, other, engine, device):
    """Its state is another one each time. That of the others comes again, so that they are the lanes."""
    passes, model, now = [other, *lanes], wan(), []
    skipcache.accelerate(model, interval=3, engine=engine)
    with device(), watched(lambda: now[-1]) as log:
        outputs(model, passes, note=now.append)
    assert not wrong(log)
    assert [t.how for t in log if t.name == other] == ["full"] * STEPS
    assert [t.how for t in log if t.name == "cond"] == ["plain", "full", "cached", *["full", "cached", "cached"] * 2]


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_weights_that_change_in_the_middle_of_a_run_take_no_old_features(engine):
    model, text = wan(), randn(1, 6, 12, seed=1)
    skipcache.accelerate(model, interval=9, engine=engine)
    x = randn(1, 4, 3, 8, 8)
    for t in (900.0, 800.0, 700.0):
        call(model, x, torch.tensor(t), text)
    for p in model.blocks[3].parameters():
        p.mul_(1.5)
    got = call(model, x, torch.tensor(600.0), text)
    skipcache.restore(model)
    assert torch.equal(got, call(model, x, torch.tensor(600.0), text)), "a full step"


@pytest.mark.parametrize("swapped_after", [0, 1, 4])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@torch.no_grad()
def test_a_prompt_that_is_swapped_makes_a_full_step(swapped_after, named):
    """Under diffusers' cache_context too: a named lane still checks its conditioning."""
    model, plain, x = skipcache.accelerate(wan(), interval=8), wan(), randn(1, 4, 3, 8, 8)
    for i, t in enumerate(torch.linspace(950, 50, 8)):
        text = randn(1, 6, 12, seed=1 if i <= swapped_after else 2)
        if named:
            with model.cache_context("cond"):
                got = call(model, x, t, text)
        else:
            got = call(model, x, t, text)
        if i in (0, swapped_after + 1):
            assert torch.equal(got, call(plain, x, t, text)), i


@pytest.mark.filterwarnings("ignore:skipcache caches nothing")
@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_a_text_that_is_another_one_on_each_step_reuses_nothing_beside_a_pooled_one_that_stays(engine):
    """As a callback that encodes the prompt anew for Stable Diffusion 3."""
    model, plain = skipcache.accelerate(denoiser("sd3"), interval=3, engine=engine), denoiser("sd3")
    config = model.config
    x, pooled = randn(1, config.in_channels, 8, 8), randn(1, config.pooled_projection_dim)
    for i, t in enumerate(torch.linspace(950, 50, 7)):
        text = randn(1, 6, config.joint_attention_dim, seed=100 + i)
        kwargs = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": t.expand(1)}
        got = model(x, **kwargs, return_dict=False)[0]
        assert torch.equal(got, plain(x, **kwargs, return_dict=False)[0]), i
        x = x - got / 7


@pytest.mark.filterwarnings("ignore:skipcache caches nothing. a call had no features:UserWarning")
@torch.no_grad()
def test_three_texts_in_turns_share_nothing():
    model, plain, x = skipcache.accelerate(wan(), interval=3), wan(), randn(1, 4, 3, 8, 8)
    texts = [randn(1, 6, 12, seed=i) for i in range(3)]
    for i, t in enumerate(torch.linspace(950, 50, 12)):
        text = texts[i % 3].clone()
        assert torch.equal(call(model, x, t, text), call(plain, x, t, text)), i
        x = x * 0.97
    assert any("a call had no features of its own" in reason for reason in skipcache.report(model).reasons)
