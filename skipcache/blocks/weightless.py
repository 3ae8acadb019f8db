"""A copy of a model without weights, on the meta device, where its forward costs no arithmetic and no memory.

The copy shares no module and no attribute with the model. Hooks, and overrides that are no part of the model, stay
behind: they may move weights, wait for other processes, or write to what the model's owner holds.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from skipcache.blocks.attributes import REGISTRIES, TORCH, WRAPPERS
from skipcache.blocks.override import Override, inner_forward, is_class_forward
from skipcache.blocks.shards import is_divided

META = "meta"
_STATE = REGISTRIES | {"training", "_non_persistent_buffers_set"}
_PLAIN = (Tensor, nn.Parameter)
_SHARDING = "__composable_api"  # FSDP2's state, in attributes that begin so
_PRODUCTS = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d", "convolution")
_NORMS = ("layer_norm", "native_layer_norm", "group_norm", "rms_norm")
_MIXING = (*_PRODUCTS, *_NORMS, "scaled_dot_product_attention")


class Unlike(ValueError):
    """No copy on the meta device does what the model does."""


def weightless(model: nn.Module, *beside: Any) -> tuple[Any, ...]:
    """The copy, and copies of the values `beside` it. Raises `Unlike`, or whatever an attribute raises when copied."""
    modules = list(model.modules())
    for module in modules:
        _check(module)
    memo: dict[int, Any] = {id(module): _shell(module) for module in modules}
    with Weightless(), _Copying():
        for module in modules:
            _fill(memo[id(module)], module, memo)
        return memo[id(model)], *(deepcopy(value, memo) for value in beside)


def _check(module: nn.Module) -> None:
    for x in (*module._parameters.values(), *module._buffers.values()):
        if x is not None and type(x) not in _PLAIN and not is_divided(x):
            raise Unlike(f"{type(module).__name__} has weights of the type {type(x).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise Unlike(f"{type(module).__name__} is a script of TorchScript")


def _shell(module: nn.Module) -> nn.Module:
    made: nn.Module = object.__new__(type(module))  # FSDP's own `__new__` makes a whole model
    return made


def _fill(shell: nn.Module, module: nn.Module, memo: dict[int, Any]) -> None:
    state = vars(nn.Module())
    names = (name for name in module.__dict__ if not name.startswith(_SHARDING))
    kept = (name for name in names if name in _STATE or name not in TORCH | WRAPPERS)
    state.update((name, deepcopy(module.__dict__[name], memo)) for name in kept)
    forward = inner_forward(module)
    if forward is not None and not is_class_forward(forward, module):
        if not isinstance(forward, (types.MethodType, Override)):
            raise Unlike(f"the forward of a {type(module).__name__} was replaced by a function")
        state["forward"] = deepcopy(forward, memo)
    shell.__dict__.update(state)


class _Copying(TorchFunctionMode):
    """Tensors are copied without their values."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            x, memo = args
            return memo.setdefault(id(x), _on_meta(x))
        return func(*args, **(kwargs or {}))


class Weightless(TorchDispatchMode):
    """On the calling thread all tensors are on the meta device: those made, those moved, and those found elsewhere.

    Products take operands of different dtypes, as they do under autocast and where a hook casts weights.
    """

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _everywhere(_on_meta, args), _everywhere(_on_meta, kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = META
        if func.__name__.partition(".")[0] in _MIXING:
            args = _of_one_dtype(args)
        return func(*args, **kwargs)


def _everywhere(change: Callable[[Any], Any], value: Any) -> Any:
    """What pytree.tree_map does for the nestings that operators take, in less time."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_everywhere(change, item) for item in value])
    return {key: _everywhere(change, item) for key, item in value.items()} if kind is dict else change(value)


def _on_meta(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device(META)
    if not isinstance(x, Tensor) or x.is_meta:
        return x
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)
    return nn.Parameter(made, requires_grad=False) if isinstance(x, nn.Parameter) else made


def _of_one_dtype(args: Any) -> Any:
    floats = [x.dtype for x in args if isinstance(x, Tensor) and x.is_floating_point()]
    if len(set(floats)) < 2:
        return args
    return tuple(x.to(floats[0]) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
