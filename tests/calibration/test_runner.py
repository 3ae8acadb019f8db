"""Trial runs take the accelerated step by hooks alone, and leave the model as it was."""

import pytest
import torch

from skipcache.calibration.runner import attached, runner_of
from skipcache.engines.hooks.engine import HookEngine
from skipcache.predictors import Hold
from skipcache.stack import make_plan
from skipcache.trajectory import CallReader
from tests.models.sampling import state
from tests.models.traces import STACK, Glued, arguments, glued

READER = CallReader(("x", "t"), "x", "t")


class HandsOut(Glued):
    """A deep feature leaves by the output, so that no cached step could give it."""

    inside = None

    def between(self, x, i):
        self.inside = x if i == 2 else self.inside
        return x

    def after(self, x):
        return x + self.inside


def test_overrides_are_on_for_as_long_as_they_are_needed():
    model = glued()
    engine, before = HookEngine(model, STACK, make_plan(4, 1)), state(model)
    with attached(engine):
        assert engine.attached
        with attached(engine):
            pass
        assert engine.attached, "they were on before"
    assert state(model) == before
    with pytest.raises(RuntimeError), attached(engine):
        raise RuntimeError
    assert state(model) == before


@torch.no_grad()
def test_a_model_that_cannot_be_cached_ends_the_trial_with_the_reason():
    for kind, served in ((Glued, True), (HandsOut, False)):
        model = glued(kind)
        engine = HookEngine(model, STACK, make_plan(4, 1))
        runner = runner_of(engine, Hold())
        plain, call = kind.forward.__get__(model), READER.read(arguments(), {})
        if served:
            assert runner.full(plain, call).features is not None
        else:
            with pytest.raises(ValueError, match="HandsOut cannot be cached: the forward reads what a deep"):
                runner.full(plain, call)
        engine.detach()
