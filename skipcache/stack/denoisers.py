"""What was given to `accelerate` -> the denoisers in it, by component name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from skipcache.stack.arguments import argument_names
from skipcache.stack.discovery import TIMESTEP_NAMES, find_stack
from skipcache.stack.stack import Stack

BESIDE = "controlnet"  # such a component has blocks and a timestep, and hands out what each of its blocks returns
_CACHES = (  # what each sets on the model or its class, and what to say
    ("is_cache_enabled", "diffusers' own cache is enabled on it; call disable_cache() on it"),
    ("_is_cached", "cache-dit or ParaAttention is enabled on it; call cache_dit.disable_cache(pipe), or load it anew,"),
    ("enable_teacache", "TeaCache is enabled on its class; set enable_teacache = False there"),
    ("magcache_thresh", "MagCache has replaced the forward of its class; put that one back"),
)


def find_denoisers(target: Any, named: bool = False) -> dict[str, nn.Module]:
    """The denoisers of `target`: itself, unwrapped, or those components of a pipeline that have a stack.

    `named` says that the caller brings a stack, so that none need be found. Raises TypeError for what is neither a
    module nor a pipeline, ValueError where there is nothing to accelerate.
    """
    parts = modules_in(target)
    if "" in parts:
        return {"": unwrap(parts[""])}
    parts = {name: module for name, module in parts.items() if not name.startswith(BESIDE)}
    found = {name: unwrap(module) for name, module in parts.items() if _is_denoiser(module, named)}
    if not found:
        raise ValueError(
            f"{type(target).__name__} holds no denoiser: looked for blocks and a timestep argument in "
            f"{', '.join(sorted(parts))}; pass the denoiser itself, with stack=skipcache.Stack(...)"
        )
    return found


def modules_in(target: Any) -> dict[str, nn.Module]:
    """`target` itself, by the name "", or the modules of a pipeline. Raises TypeError where there is none."""
    found = {"": target} if isinstance(target, nn.Module) else dict(_modules(target))
    if not found:
        raise TypeError(f"expected an nn.Module or a pipeline that holds one, got {type(target).__name__}")
    return found


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel. What cannot be accelerated is refused by name."""
    name = type(module).__name__
    if name == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
        raise ValueError(
            f"{name}: a compiled module cannot be accelerated, since its graph has all blocks in it; "
            f"accelerate the plain module"
        )
    if name == "FullyShardedDataParallel":
        raise ValueError(
            f"{name}: FSDP1 is not supported; shard with torch.distributed.fsdp.fully_shard, "
            f"or accelerate the plain module"
        )
    if name == "DataParallel":
        raise ValueError(
            "DataParallel: its replicas would run the weights of this one module; use DistributedDataParallel, "
            "or accelerate the plain module"
        )
    if name == "DistributedDataParallel":
        return unwrap(module.get_submodule("module"))
    cache = other_cache(module)
    if cache is not None:
        raise ValueError(f"{name}: {cache} first")
    return module


def inner_denoiser(model: nn.Module, stack: Stack) -> tuple[nn.Module, Stack] | None:
    """The outermost module within `model` that has the same blocks and is a denoiser by itself, and its stack."""
    path = ""
    for name in stack.blocks[0].split(".")[:-1]:
        path = f"{path}.{name}".lstrip(".")
        inner = model.get_submodule(path)
        if not _is_denoiser(inner, named=False):
            continue
        found = find_stack(inner)
        if tuple(f"{path}.{block}" for block in found.blocks) == stack.blocks:
            return inner, found
    return None


def other_cache(module: nn.Module) -> str | None:
    """What else caches on `module`, and how to end that; None where nothing is known to."""
    return next((said for name, said in _CACHES if getattr(module, name, False)), None)


def _modules(target: Any) -> Iterator[tuple[str, nn.Module]]:
    """A pipeline's modules, each once, by attribute: diffusers' `components` misses those that were set by hand."""
    seen: set[int] = set()
    for name, value in getattr(target, "__dict__", {}).items():
        if isinstance(value, nn.Module) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _is_denoiser(module: nn.Module, named: bool) -> bool:
    inner = getattr(module, "_orig_mod", getattr(module, "module", module))
    try:
        timed = not set(TIMESTEP_NAMES).isdisjoint(argument_names(inner))
        return timed and (named or find_stack(inner) is not None)
    except ValueError:
        return False
