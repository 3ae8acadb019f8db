"""A trial fits the corrections that bring the next state back, or applies those that it was given."""

import pytest
import torch

from skipcache.calibration.runs import Runs
from skipcache.calibration.trial import Trial
from skipcache.engines.hooks.engine import HookEngine
from skipcache.runtime import Corrections
from skipcache.stack import make_plan
from tests.models.traces import STACK, arguments, glued

TIMES = tuple(0.95 - 0.08 * i for i in range(11))
PLACES = (0, 3, 6, 9)


@pytest.fixture(scope="module")
def runs():
    model = glued()

    def sample():
        x, _ = arguments()
        for t in TIMES:
            x = 0.98 * x - 0.1 * model(x, torch.full((2,), t))["eps"]

    found = Runs(model, [HookEngine(model, STACK, make_plan(4, 0))], None, sample, lambda what: None)
    found.sample_uncached(lambda costs, steps: 3)
    return found


def test_corrections_that_were_fitted_bring_states_nearer(runs):
    (engine,) = runs.engines
    bare, fitted = runs.trial(engine, PLACES), runs.trial(engine, PLACES, fit=True)
    assert isinstance(fitted, Trial) and bare.corrections is None
    assert runs.maps(engine).error(fitted) < 0.5 * runs.maps(engine).error(bare)


def test_what_was_fitted_gives_the_same_run_again(runs):
    (engine,) = runs.engines
    fitted = runs.trial(engine, PLACES, fit=True)
    assert fitted.is_joint
    again = runs.trial(engine, PLACES, corrections=fitted.corrections)
    for ours, theirs in zip(again.seen[0], fitted.seen[0]):
        torch.testing.assert_close(ours[0].x, theirs[0].x, rtol=1e-4, atol=1e-5)


def test_slopes_are_fitted_on_cached_steps_behind_two_full_ones(runs):
    (engine,) = runs.engines
    found = runs.trial(engine, PLACES, fit=True).corrections
    sloped = {i for i, slope in enumerate(found.slopes) if slope != 1}
    assert sloped and sloped <= {4, 5, 7, 8, 10}


def test_corrections_of_nothing_are_a_bare_run(runs):
    (engine,) = runs.engines
    nothing = runs.trial(engine, PLACES, corrections=Corrections(((),) * len(TIMES)))
    bare = runs.trial(engine, PLACES)
    for ours, theirs in zip(nothing.seen[0], bare.seen[0]):
        assert torch.equal(ours[0].e, theirs[0].e)


def test_what_cannot_be_a_correction_is_left_out(runs, monkeypatch):
    """Where samples grow without bound the fit does too: such a step goes without."""
    (engine,) = runs.engines
    monkeypatch.setattr("skipcache.calibration.trial.LARGEST", 1e-9)
    found, bare = runs.trial(engine, PLACES, fit=True), runs.trial(engine, PLACES)
    assert found.corrections is None or set(found.corrections.slopes) == {1.0}
    for ours, theirs in zip(found.seen[0], bare.seen[0]):
        assert torch.equal(ours[0].e, theirs[0].e)
