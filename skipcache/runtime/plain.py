"""Why a call must run as if nothing were there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from skipcache.blocks import Override, hidden_behind
from skipcache.runtime.pipelines import Pipelines
from skipcache.stack import other_cache

REPEATED = (
    "a call repeated another one of its step, with the same sample, timestep and conditioning; it ran plain, since it "
    "may be a pass through perturbed blocks"
)
UNSEEN = (
    "a call had no features of its own on a cached step, and all of its blocks ran: the last full step had no call "
    "with its conditioning and this state of the model, or its features were dropped to keep to cache_limit"
)
BEGINNINGS = (
    "each of many runs had one step: their samples do not go on from each other (windows that move, more requests in "
    "turns than are told apart, a model of one step); name the runs with skipcache.run where that is not so"
)

COMPILED = (
    "the model was compiled after accelerate, and compiled code has all blocks in it; leave it uncompiled, and use "
    "accelerate(compile=True)"
)
ABSENT = (
    "this copy of the model has not seen the pipeline that it was accelerated with, nor its scheduler; "
    "call skipcache.accelerate on the copy's own pipeline"
)


TRAINING = ("plain", "ignore")  # what is done with a model in training mode


def why_plain(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: str = "plain"
) -> str | None:
    """The reason, by the state of the model and of the thread; None where there is none."""
    if forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
        return "forward-mode AD or vmap is under way: a tensor holds more than its values"
    cache = other_cache(module)
    if cache is not None:
        return f"another cache is on the model too: {cache}"
    if module.training and training != "ignore":
        return (
            "the model is in training mode; call model.eval() to sample, or pass training='ignore' to accelerate where "
            "a program leaves its models so"
        )
    if torch.is_grad_enabled() and _records_gradients(module, args, kwargs):
        return "autograd is recording; sample under torch.no_grad() or torch.inference_mode()"
    return None


def no_replicas() -> None:
    """DataParallel came after accelerate. A replica has the original's forward, and so the original's weights."""
    raise ValueError(
        "DataParallel: its replicas would run the weights of this one module; use DistributedDataParallel, or call "
        "skipcache.restore first"
    )


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


class TrainingMode:
    """Says whether training mode changes what a model computes, for models whose training mode is to be ignored."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen: tuple[Any, list[Suspect]] = (None, [])

    def why_plain(self, state: Any) -> str | None:
        """The reason, or None. `state` is that of the model: as long as it is the same object, so are the modules."""
        if not self._module.training:
            return None
        if self._seen[0] is not state:
            self._seen = (state, list(_suspects(self._module)))
        found = next((one for one in self._seen[1] if one.differs()), None)
        if found is None:
            return None
        return (
            f"the model is in training mode, in which {found.path or 'it'} ({type(found.module).__name__}) computes "
            f"something else, so that training='ignore' cannot be followed; call model.eval()"
        )


class Suspect(NamedTuple):
    """A module that may compute something else in training mode.

    `drops` are its attributes that say how often it drops features, labels or captions; empty for a norm by the batch
    and for slopes that are drawn, which always do.
    """

    path: str
    module: nn.Module
    drops: tuple[str, ...]

    def differs(self) -> bool:
        module = self.module
        return module.training and (not self.drops or any(getattr(module, name) > 0 for name in self.drops))


def _suspects(model: nn.Module) -> Iterator[Suspect]:
    for path, module in model.named_modules():
        drops = ("p",) if isinstance(module, _DropoutNd) else tuple(_probabilities(module))
        if drops or isinstance(module, nn.RReLU) or (isinstance(module, _NormBase) and module.track_running_stats):
            yield Suspect(path, module, drops)


def _probabilities(module: nn.Module) -> Iterator[str]:
    """By name: embedders and blocks of a model's own call `F.dropout`, or drop labels (DiT) and captions (PixArt)."""
    for name, value in module.__dict__.items():
        if type(value) in (int, float) and ("drop" in name or name == "uncond_prob"):
            yield name
