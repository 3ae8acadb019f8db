"""Which attributes of a module are torch's, and which are hung there by libraries that wrap it."""

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.hooks.hooks import HookRegistry
from diffusers.hooks.hooks import ModelHook as DiffusersHook
from torch import nn

from skipcache.blocks.attributes import HOOKS, REGISTRIES, TORCH, WRAPPERS, modules_of, tag_of


def test_hooks_and_registries_are_torch_s_and_wrappers_are_not():
    assert HOOKS | REGISTRIES <= TORCH
    assert not WRAPPERS & TORCH


def test_what_wrapping_libraries_hang_on_a_module_is_known():
    wrapped = add_hook_to_module(nn.Linear(2, 2), ModelHook())
    assert wrapped.__dict__.keys() - nn.Linear(2, 2).__dict__.keys() <= WRAPPERS
    hooked = nn.Linear(2, 2)
    HookRegistry.check_if_exists_or_initialize(hooked).register_hook(DiffusersHook(), "idle")
    new = hooked.__dict__.keys() - nn.Linear(2, 2).__dict__.keys()
    assert new and new <= WRAPPERS


def test_attributes_of_a_model_s_own_are_none_of_them():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.count, self.table = 0, torch.zeros(2)

    assert Counts().__dict__.keys() - (TORCH | WRAPPERS) == {"count", "table"}


def test_all_modules_of_a_tree_are_found_in_torch_s_order_each_once():
    shared = nn.Linear(2, 2)
    tree = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.Tanh())}))
    tree.register_module("none", None)
    assert modules_of(tree) == list(tree.modules())


def test_a_tag_changes_with_each_write():
    module = nn.Linear(2, 2)
    before = tag_of(module.__dict__)
    assert tag_of(module.__dict__) == before
    module.new = 1
    assert before is None or tag_of(module.__dict__) != before
