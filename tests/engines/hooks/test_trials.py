"""Trials: what holds is said with its features, and the model and what lies outside of it are as they were."""

import torch
from torch import nn

import skipcache
from skipcache.engines.hooks.trials import UNPROVED, Trials, given
from tests.models.hooked import call_of, made
from tests.models.odd import Tiny, noise, tiny
from tests.models.sampling import state


class AddsNoise(Tiny):
    """A cached step draws other numbers than the full one did, wherever trials begin."""

    def forward(self, x, t):
        return super().forward(x, t) + torch.rand(())


def proved(kind=Tiny):
    model, engine = made(kind)
    engine.attach()
    call = call_of(model)
    forward = type(model).forward.__get__(model)
    with torch.no_grad():
        trials = Trials(engine, forward, call)
        with engine.doing(trials.full):
            output = call.run(forward)
        before = state(model)
        wiring, features = trials.prove(output, trials.full.wiring())
    assert state(model) == before
    return engine, call, forward, wiring, features, output


def test_a_wiring_that_holds_is_returned_and_a_step_that_is_given_D_gives_the_output():
    engine, call, forward, wiring, features, output = proved()
    assert wiring.refusal is None and not wiring.copies
    run = given(engine, features.D, call, wiring)
    with torch.no_grad(), engine.doing(run):
        assert torch.equal(call.run(forward), output) and run.ran == 2


def test_one_that_does_not_hold_is_refused():
    assert proved(AddsNoise)[3].refusal == UNPROVED


class AttendsBehind(Tiny):
    """Torch's own attention behind the blocks: under a function mode it takes another path, whose last bits differ."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def after(self, h, x, t):
        return h + self.attention(h, h, h, need_weights=False)[0]


def test_full_steps_keep_their_bits_where_torch_s_own_attention_stands_in_the_glue():
    plain, model = tiny(AttendsBehind), skipcache.accelerate(tiny(AttendsBehind), interval=3, engine="hooks")
    x, t = noise(), torch.full((2,), 950.0)
    for i in range(4):
        with torch.no_grad():
            output = model(x, t - 100 * i)
            assert torch.equal(output, plain(x, t - 100 * i)) == (i in (0, 3))
        x = x - 0.1 * output
    assert skipcache.report(model).cached_steps == 2
