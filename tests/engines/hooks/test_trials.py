"""Trials: what holds is said with its features, and the model and what lies outside of it are as they were."""

import torch

from skipcache.engines.hooks.trials import UNPROVED, Trials, given
from tests.models.hooked import call_of, made
from tests.models.odd import Tiny
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
