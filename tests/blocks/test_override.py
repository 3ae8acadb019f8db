"""An override of `forward` is put on and taken off exactly, inside of what wraps the module."""

import copy
import inspect
import pickle

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from skipcache.blocks.override import Override, check_plain, is_class_forward, override_of, own_forward


class Doubled(Override):
    def __call__(self, *args, **kwargs):
        return 2 * self.plain(*args, **kwargs)


class Negated(Override):
    def __call__(self, *args, **kwargs):
        return -self.plain(*args, **kwargs)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x, *, twice=False):
        return x * self.weight * (2 if twice else 1)


X = torch.tensor(5.0)


def test_it_stands_in_for_the_forward_and_leaves_nothing():
    module = Scale()
    before = dict(module.__dict__)
    override = Doubled(module)
    override.put_on()
    assert module(X) == 30 and module.forward(X, twice=True) == 60 and override.plain(X) == 15
    assert override_of(module, Doubled) is override and override_of(module, Negated) is None
    assert inspect.signature(module.forward) == inspect.signature(Scale().forward)
    override.take_off()
    assert module.__dict__ == before and module(X) == 15 and override_of(module, Override) is None


def test_one_that_stands_there_already_comes_back():
    module = Scale()
    outer, inner = Negated(module), Doubled(module)
    inner.put_on()
    outer.put_on()
    assert module(X) == -30
    outer.take_off()
    assert module(X) == 30
    inner.take_off()
    assert "forward" not in module.__dict__


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_has_an_override_of_its_own_that_runs_its_own_weights(copied):
    module = Scale()
    Doubled(module).put_on()
    twin = copied(module)
    with torch.no_grad():
        module.weight.fill_(100)
    assert twin(X) == 30
    override_of(twin, Doubled).take_off()
    assert twin(X) == 15 and module(X) == 1000


class AddOne(ModelHook):
    def pre_forward(self, module, *args, **kwargs):
        return tuple(x + 1 for x in args), kwargs

    def post_forward(self, module, output):
        return output + 1


@pytest.mark.parametrize("hook_first", [True, False])
def test_offload_hooks_stay_outside_whether_they_came_before_or_after(hook_first):
    module = Scale()
    plain = set(module.__dict__)
    override = Doubled(module)
    steps = [lambda: add_hook_to_module(module, AddOne()), override.put_on]
    for step in steps if hook_first else reversed(steps):
        step()
    assert module(X) == 2 * (5 + 1) * 3 + 1, "the hook goes around the override"
    assert override_of(module, Doubled) is override
    override.take_off()
    assert module(X) == (5 + 1) * 3 + 1
    remove_hook_from_module(module)
    assert module(X) == 15 and is_class_forward(module.__dict__.get("forward", module.forward), module)
    assert set(module.__dict__) - plain <= {"forward"}


def test_a_forward_of_the_instance_s_own_is_kept():
    module = Scale()
    own = module.forward = lambda x: x + 1
    override = Doubled(module)
    override.put_on()
    assert module(X) == 12
    override.take_off()
    assert module.forward is own


def test_an_accelerated_module_is_refused_by_name():
    module = Scale()
    check_plain(module, "first")
    Override(module).put_on()
    with pytest.raises(ValueError, match=r"Scale is accelerated; call skipcache\.restore first"):
        check_plain(module, "first")


def test_the_class_s_forward_is_told_from_others():
    module, other = Scale(), Scale()
    assert is_class_forward(module.forward, module)
    assert not is_class_forward(other.forward, module) and not is_class_forward(lambda x: x, module)


class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.forward = self.forward_here

    def forward_here(self, x):
        return x + 1


@pytest.mark.parametrize("hooked", [False, True])
def test_a_method_that_the_instance_binds_is_the_module_s_own_forward(hooked):
    module = Chooses()
    bound = module.forward
    if hooked:
        add_hook_to_module(module, AddOne())
    assert own_forward(module) is Chooses.forward_here
    override = Doubled(module)
    override.put_on()
    assert own_forward(module) is Chooses.forward_here
    assert module(X) == (2 * ((5 + 1) + 1) + 1 if hooked else 12), "hooks go around the override"
    override.take_off()
    if hooked:
        remove_hook_from_module(module)
    assert module.forward == bound and module(X) == 6


def test_the_class_s_forward_is_own_where_nothing_else_is_bound():
    module = Scale()
    assert own_forward(module) is Scale.forward
    module.forward = lambda x: x
    assert own_forward(module) is Scale.forward, "a function that is no method cannot stand for one"
