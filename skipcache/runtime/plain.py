"""Why a call must run as if nothing were there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from skipcache.blocks import Override, hidden_behind
from skipcache.runtime.pipelines import Pipelines
from skipcache.stack import other_cache

REPEATED = (
    "a call repeated another one of its step, with the same sample, timestep and conditioning; it ran plain, since it "
    "may be a pass through perturbed blocks"
)

COMPILED = (
    "the model was compiled after accelerate, and compiled code has all blocks in it; leave it uncompiled, and use "
    "accelerate(compile=True)"
)
ABSENT = (
    "this copy of the model has not seen the pipeline that it was accelerated with, nor its scheduler; "
    "call skipcache.accelerate on the copy's own pipeline"
)


def why_plain(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The reason, by the state of the model and of the thread; None where there is none."""
    if forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
        return "forward-mode AD or vmap is under way: a tensor holds more than its values"
    cache = other_cache(module)
    if cache is not None:
        return f"another cache is on the model too: {cache}"
    if module.training:
        return "the model is in training mode; call model.eval() to sample"
    if torch.is_grad_enabled() and _records_gradients(module, args, kwargs):
        return "autograd is recording; sample under torch.no_grad() or torch.inference_mode()"
    return None


def unnoticed(override: Override, pipelines: Pipelines, called: bool) -> Iterator[str]:
    """Reasons that only a look from outside shows."""
    if called and pipelines.absent:
        yield ABSENT
    instead = None if called else hidden_behind(override)
    if instead is not None:
        yield f"{instead} took the place of the model's forward after accelerate; call restore, and accelerate anew"


def _records_gradients(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return any(p.requires_grad for p in module.parameters()) or any(
        isinstance(x, Tensor) and x.requires_grad for x in leaves
    )
