"""A copy of a model without weights: it runs on the meta device, and nothing of it is shared with the model."""

import copy
import threading
import types

import pytest
import torch
from torch import nn

import skipcache
from skipcache.blocks import Unlike, Weightless, inner_forward, weightless
from tests.models.odd import Tiny, noise, tiny
from tests.models.sampling import build, inputs


def modules(model):
    return {id(module) for module in model.modules()}


def shapes(model):
    return {name: (x.shape, x.dtype) for name, x in model.state_dict().items()}


def called(model):
    with torch.inference_mode(), Weightless():
        return model(noise(), torch.full((2,), 500))


def test_it_has_the_shapes_of_the_weights_and_no_value():
    model = tiny()
    (made,) = weightless(model)
    assert shapes(made) == shapes(model) and all(x.is_meta for x in made.state_dict().values())
    assert not modules(made) & modules(model) and type(made) is type(model)
    assert called(made).is_meta and called(made).shape == noise().shape


def test_tied_weights_stay_tied_and_tensors_that_are_no_parameters_come_along():
    model = tiny()
    model.blocks[1].mlp[0].weight = model.blocks[0].mlp[0].weight
    model.table, model.held = {"freqs": [torch.ones(3)]}, nn.Parameter(torch.ones(2)).data
    (made,) = weightless(model)
    assert made.blocks[1].mlp[0].weight is made.blocks[0].mlp[0].weight
    assert made.table["freqs"][0].is_meta and made.held.is_meta and not model.table["freqs"][0].is_meta


def test_attributes_and_what_is_beside_them_are_copies():
    model, beside = tiny(), {"cache": []}
    model.seen = beside
    made, same = weightless(model, beside)
    made.seen["cache"].append(1)
    assert beside == {"cache": []} and same is made.seen


def test_hooks_and_accelerating_stay_behind_and_branches_come_along():
    ran, model = [], build("dit")
    skipcache.graft(model)
    handle = model.transformer_blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    skipcache.accelerate(model, engine="hooks")
    made, kwargs = weightless(model, inputs("dit", model)[0])
    with torch.inference_mode(), Weightless():
        made(**kwargs, timestep=torch.full((2,), 500))
    assert not ran and inner_forward(model) is None
    assert [type(block.forward).__name__ for block in made.transformer_blocks] == ["Tap", "Tap", "Fuse", "Fuse"]
    handle.remove()


def test_a_method_that_stands_for_forward_is_bound_to_the_copy_and_a_function_is_refused():
    model = tiny()
    model.blocks[0].forward = types.MethodType(lambda self, h, c: h * self.norm.eps, model.blocks[0])
    (made,) = weightless(model)
    assert made.blocks[0].forward.__self__ is made.blocks[0]
    model.blocks[0].forward = lambda h, c: h
    with pytest.raises(Unlike, match="the forward of a Block was replaced by a function"):
        weightless(model)


class Packed(nn.Parameter):
    """As quantised and sharded weights are: a kind of tensor of its own."""


def test_weights_of_another_kind_are_refused_and_what_cannot_be_copied_raises():
    model = tiny()
    model.inlet.bias = Packed(torch.zeros(16))
    with pytest.raises(Unlike, match="Linear has weights of the type Packed"):
        weightless(model)
    other = tiny()
    other.lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        weightless(other)


class Mixes(Tiny):
    """Reads a tensor that lies elsewhere, and moves its own."""

    def before(self, h, x, t):
        far = torch.arange(16, device="cpu")
        return (h.cpu() + TABLE + far).to("cpu", torch.bfloat16)


TABLE = torch.ones(16)


def test_no_tensor_is_anywhere_else_and_dtypes_may_differ():
    (made,) = weightless(tiny(Mixes))
    assert called(made).is_meta


def test_the_model_itself_can_still_be_copied_and_run():
    model = tiny()
    weightless(model)
    assert torch.equal(copy.deepcopy(model)(noise(), torch.full((2,), 500)), model(noise(), torch.full((2,), 500)))
