"""What was given to `accelerate`: a module, one under a wrapper, or a pipeline of one or several denoisers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from skipcache.stack.denoisers import find_denoisers, inner_denoiser, unwrap
from skipcache.stack.discovery import find_stack


class Block(nn.Module):
    def forward(self, x, c):
        return x + c


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x, timestep):
        return x


class Decoder(nn.Module):
    def forward(self, latents):
        return latents


def wrapper(name, inner):
    """As a library's wrapper looks from outside: its class's name, and the module inside."""

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = inner

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    Wrapper.__name__ = name
    return Wrapper()


def test_a_module_is_its_own_denoiser():
    model = Decoder()
    assert find_denoisers(model) == {"": model}, "what it is was decided by who gave it"


@pytest.mark.parametrize("name", ["DistributedDataParallel"])
def test_the_model_in_a_parallel_wrapper_is_found(name):
    model = Denoiser()
    assert unwrap(wrapper(name, model)) is model
    assert unwrap(wrapper(name, wrapper(name, model))) is model
    assert find_denoisers(SimpleNamespace(transformer=wrapper(name, model))) == {"transformer": model}


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "OptimizedModule", "DataParallel"])
def test_wrappers_that_cannot_be_served_are_refused_by_name(name):
    for target in (wrapper(name, Denoiser()), SimpleNamespace(transformer=wrapper(name, Denoiser()))):
        with pytest.raises(ValueError, match=name):
            find_denoisers(target)


def test_compiled_modules_are_refused():
    with pytest.raises(ValueError, match="OptimizedModule: a compiled module cannot be accelerated"):
        unwrap(torch.compile(Denoiser(), backend="eager"))
    in_place = Denoiser()
    in_place.compile(backend="eager")
    with pytest.raises(ValueError, match="Denoiser: a compiled module cannot be accelerated"):
        unwrap(in_place)


def test_a_pipeline_of_several_denoisers_has_each_by_its_name_and_once():
    one, other = Denoiser(), Denoiser()
    pipe = SimpleNamespace(transformer=one, vae=Decoder(), transformer_2=other, alias=one, scheduler=object())
    assert find_denoisers(pipe) == {"transformer": one, "transformer_2": other}


def test_a_model_without_a_stack_of_its_own_needs_one_by_hand():
    class Plain(nn.Module):
        def forward(self, x, t):
            return x

    pipe = SimpleNamespace(transformer=Plain(), vae=Decoder())
    with pytest.raises(ValueError, match=r"SimpleNamespace holds no denoiser: looked for .* in transformer, vae"):
        find_denoisers(pipe)
    assert find_denoisers(pipe, named=True) == {"transformer": pipe.transformer}


@pytest.mark.parametrize("target", [3, "dit", SimpleNamespace(vae=None), None])
def test_what_is_neither_a_module_nor_a_pipeline_is_refused(target):
    with pytest.raises(TypeError, match=r"an nn\.Module or a pipeline that holds one, got"):
        find_denoisers(target)


def test_a_controlnet_beside_the_denoiser_is_left_alone():
    """It has blocks and a timestep, and hands out what each of its blocks returns."""
    pipe = SimpleNamespace(controlnet=Denoiser(), transformer=Denoiser())
    assert find_denoisers(pipe) == {"transformer": pipe.transformer}


class Around(nn.Module):
    """Takes a timestep, and holds a denoiser."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, timestep):
        return self.inner(x, timestep)


def test_the_outermost_denoiser_within_one_is_found():
    model = Denoiser()
    assert inner_denoiser(model, find_stack(model)) is None
    once = Around(model)
    assert inner_denoiser(once, find_stack(once)) == (model, find_stack(model))
    twice = Around(once)
    assert inner_denoiser(twice, find_stack(twice)) == (once, find_stack(once))
    held = Around(nn.ModuleDict({"part": model}))
    assert inner_denoiser(held, find_stack(held)) == (model, find_stack(model))
