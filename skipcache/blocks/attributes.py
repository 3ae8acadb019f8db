"""Attributes that torch and other libraries keep on a module, beside those of the model's own code."""

from __future__ import annotations

from torch import nn

# Where offloading and caching libraries hang what they wrap around a module.
WRAPPERS = frozenset({"forward", "_old_forward", "_hf_hook", "_diffusers_hook", "cache_context"})
HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
REGISTRIES = frozenset({"_modules", "_parameters", "_buffers"})
TORCH = frozenset(vars(nn.Module()))  # all that every module has
