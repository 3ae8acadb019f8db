"""Why a call must run as if nothing were there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

REPEATED = (
    "a call repeated another one of its step, with the same sample, timestep and conditioning; it ran plain, since it "
    "may be a pass through perturbed blocks"
)


def why_plain(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The reason, by the state of the model and of the thread; None where there is none."""
    if forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
        return "forward-mode AD or vmap is under way: a tensor holds more than its values"
    if getattr(module, "is_cache_enabled", False):
        return "diffusers' own cache is enabled on the model too; call disable_cache() on it"
    if module.training:
        return "the model is in training mode; call model.eval() to sample"
    if torch.is_grad_enabled() and _records_gradients(module, args, kwargs):
        return "autograd is recording; sample under torch.no_grad() or torch.inference_mode()"
    return None


def _records_gradients(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return any(p.requires_grad for p in module.parameters()) or any(
        isinstance(x, Tensor) and x.requires_grad for x in leaves
    )
