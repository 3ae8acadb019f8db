"""Which attributes of a module are torch's, and which are hung there by libraries that wrap it."""

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.hooks.hooks import HookRegistry
from diffusers.hooks.hooks import ModelHook as DiffusersHook
from torch import nn

from skipcache.blocks.attributes import HOOKS, REGISTRIES, TORCH, WRAPPERS


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
