"""An override of `forward` is put on and taken off exactly, inside of what wraps the module."""

import copy
import functools
import inspect
import pickle
from types import MethodType

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from skipcache.blocks.attributes import CALL
from skipcache.blocks.override import (
    CallOverride,
    Override,
    check_plain,
    hidden_behind,
    is_class_forward,
    override_of,
    own_forward,
)


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


class Skipped(CallOverride):
    skips = False

    def __call__(self, *args, **kwargs):
        return args[0] if self.skips else self.plain(*args, **kwargs)


def test_it_can_be_bound_again_as_a_bound_method_can():
    """cache-dit puts a forward back so."""
    module = nn.Linear(2, 2)
    override = Doubled(module)
    override.put_on()
    module.forward = module.forward.__get__(module)
    assert module.forward is override
    override.take_off()
    assert "forward" not in module.__dict__


def test_an_override_of_the_call_stands_around_hooks_and_compiled_code():
    module, seen = Scale(), []
    module.register_forward_pre_hook(lambda *_: seen.append("hook"))
    module.compile(backend=lambda graph, inputs: seen.append("compiled") or graph.forward)
    compiled, before = module.__dict__[CALL], dict(module.__dict__)
    override = Skipped(module)
    override.put_on()
    override.put_on()
    override.skips = True
    assert module(X) is X and seen == []
    override.skips = False
    assert module(X) == 15 and "compiled" in seen and module.forward(X) == 15
    override.take_off()
    assert module.__dict__ == before and module.__dict__[CALL] is compiled


def test_one_that_compile_has_written_over_is_put_on_again():
    module = Scale()
    override = Skipped(module)
    override.put_on()
    override.skips = True
    module.compile(backend="eager")
    assert override_of(module, Skipped) is None
    override.put_on()
    assert module(X) is X and override_of(module, Skipped) is override
    override.take_off()
    assert not isinstance(module.__dict__[CALL], Skipped)


def test_a_copy_drops_an_override_of_the_call_which_copied_alone_runs_no_compiled_code_of_the_original():
    module = Scale()
    module.compile(backend="eager")
    override = Skipped(module)
    override.put_on()
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert CALL not in copied(module).__dict__
        twin = copied(override)
        with torch.no_grad():
            twin.module.weight.fill_(1)
        twin.put_on()
        assert twin.module(X) == 5 and override.module is module


@pytest.mark.parametrize("kinds", [(Doubled, Negated), (Skipped, Skipped)])
@pytest.mark.parametrize("first", [0, 1])
def test_overrides_of_one_place_may_be_taken_off_in_any_order(kinds, first):
    module = Scale()
    before = dict(module.__dict__)
    overrides = [kind(module) for kind in kinds]
    for override in overrides:
        override.put_on()
    overrides[first].take_off()
    left = overrides[1 - first]
    assert override_of(module, Override) is left and module(X) == left(X)
    left.take_off()
    assert module.__dict__ == before and module(X) == 15


def test_it_is_taken_out_of_what_a_wrapper_keeps_and_is_bound_as_accelerate_binds_it():
    module = Scale()
    override = Doubled(module)
    override.put_on()
    module._original_forward = module.forward
    module.forward = MethodType(module.forward.__func__, module)
    assert module(X) == 30 and override_of(module, Doubled) is override
    override.take_off()
    assert is_class_forward(module._original_forward, module) and module(X) == 15


def test_a_forward_that_hides_an_override_is_named():
    module = Scale()
    override = Doubled(module)
    override.put_on()
    assert hidden_behind(override) is None
    add_hook_to_module(module, AddOne())
    assert hidden_behind(override) is None
    remove_hook_from_module(module)
    inner = module.forward
    module.forward = functools.wraps(inner)(lambda x: inner(x))
    assert hidden_behind(override) is None, "`__wrapped__` leads to it"
    module.forward = Scale().forward
    assert hidden_behind(override) == "Scale.forward"
