"""The accelerated forwards in a model or a pipeline, under whatever wrappers."""

import pytest
import torch
from torch import nn

from skipcache.runtime.forward import CachedForward
from skipcache.runtime.models import accelerated_in, forward_for, forwards_in
from skipcache.runtime.settings import Request
from tests.models.odd import tiny


class Pipeline:
    def __init__(self, **parts):
        self.__dict__.update(parts)


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def settings(model, **asked):
    return Request(**asked).settings(model)


def accelerated(model, **asked):
    forward = forward_for(model, settings(model, **asked), "")
    forward.put_on()
    return forward


def test_a_model_s_forward_is_found_under_its_wrappers():
    model = tiny()
    forward = accelerated(model)
    assert forwards_in(model) == accelerated_in(model) == {"": forward}
    assert forwards_in(Wrapper(Wrapper(model))) == {"": forward}
    assert forwards_in(torch.compile(model, backend="eager")) == {"": forward}


def test_of_a_pipeline_they_go_by_component_and_plain_ones_are_left_out():
    one, other, plain = tiny(), tiny(), tiny()
    forwards = accelerated(one), accelerated(other)
    pipe = Pipeline(transformer=one, vae=nn.Linear(1, 1), transformer_2=Wrapper(other), unet=plain, scheduler=object())
    assert forwards_in(pipe) == accelerated_in(pipe) == {"transformer": forwards[0], "transformer_2": forwards[1]}


def test_where_there_is_none_it_says_what_to_call():
    model = tiny()
    for target in (model, Pipeline(transformer=model)):
        assert forwards_in(target) == {}
        with pytest.raises(ValueError, match=f"{type(target).__name__} is not accelerated; call skipcache.accelerate"):
            accelerated_in(target)
    with pytest.raises(TypeError, match=r"an nn\.Module or a pipeline"):
        forwards_in(3)


def test_a_forward_that_was_taken_off_is_gone():
    model = tiny()
    accelerated(model).take_off()
    assert forwards_in(model) == {}


def test_a_forward_is_made_once_and_not_put_on():
    model = tiny()
    made = forward_for(model, settings(model), "")
    assert isinstance(made, CachedForward) and made.module is model and not made.on and forwards_in(model) == {}
    made.put_on()
    assert forward_for(model, settings(model), "") is made, "equal settings share it"


@pytest.mark.parametrize(("name", "said"), [("", "Tiny is accelerated"), ("unet", r"Tiny \(unet\) is accelerated")])
@pytest.mark.parametrize("asked", [{"interval": 4}, {"keep": 2}, {"engine": "hooks"}, {"cache_limit": 100}])
def test_other_settings_are_refused_by_name(name, said, asked):
    model = tiny()
    accelerated(model, interval=3)
    with pytest.raises(ValueError, match=f"{said} with other settings, Settings.*; call skipcache.restore first"):
        forward_for(model, settings(model, **{"interval": 3, **asked}), name)
