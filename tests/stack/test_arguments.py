"""Which arguments a forward takes: that of the class, or what the instance has in its place."""

import functools

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

import skipcache
from skipcache.stack import argument_names, check_stack
from tests.models.odd import Tiny, tiny
from tests.models.stacks import Bound, Chosen, Functional


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Tiny, ["x", "t", "kwargs"]),
        (Chosen, ["img", "timesteps"]),
        (Bound, ["img", "sigma"]),
        (Functional, ["img", "sigma"]),
    ],
)
def test_what_runs_is_asked_also_under_hooks_and_acceleration(kind, names):
    model = tiny(kind)
    assert argument_names(model) == names
    stack = skipcache.find_stack(model)
    check_stack(model, stack)
    add_hook_to_module(model, ModelHook())
    assert argument_names(model) == names
    skipcache.accelerate(model)
    assert argument_names(model) == names and skipcache.find_stack(model) == stack


def test_a_wrapper_that_takes_anything_shows_the_class_s_names():
    model = tiny(Tiny)

    def anything(self, *args, **kwargs):
        return Tiny.forward(self, *args, **kwargs)

    model.forward = anything.__get__(model)
    assert argument_names(model) == ["x", "t", "kwargs"]
    model.forward = functools.partial(Tiny.forward, model)
    assert argument_names(model) == ["x", "t", "kwargs"]


def test_a_model_without_any_forward_is_refused_by_name():
    class Nothing(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"Nothing\.forward has no timestep argument"):
        skipcache.find_stack(Nothing())


def test_a_component_of_a_pipeline_is_found_by_the_forward_that_runs():
    class Pipe:
        def __init__(self, model):
            self.transformer, self.vae = model, nn.Linear(2, 2)

    pipe = Pipe(tiny(Chosen))
    skipcache.accelerate(pipe)
    with torch.no_grad():
        pipe.transformer(torch.zeros(1, 4, 4, 4), torch.tensor([500.0]))
    assert skipcache.report(pipe).full_steps == 1
