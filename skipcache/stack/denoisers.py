"""What was given to `accelerate` -> the denoisers in it, by component name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from skipcache.stack.arguments import argument_names
from skipcache.stack.discovery import TIMESTEP_NAMES, find_stack


def find_denoisers(target: Any, named: bool = False) -> dict[str, nn.Module]:
    """The denoisers of `target`: itself, unwrapped, or those components of a pipeline that have a stack.

    `named` says that the caller brings a stack, so that none need be found. Raises TypeError for what is neither a
    module nor a pipeline, ValueError where there is nothing to accelerate.
    """
    if isinstance(target, nn.Module):
        return {"": unwrap(target)}
    parts = dict(_modules(target))
    if not parts:
        raise TypeError(f"expected an nn.Module or a pipeline that holds one, got {type(target).__name__}")
    found = {name: unwrap(module) for name, module in parts.items() if _is_denoiser(module, named)}
    if not found:
        raise ValueError(
            f"{type(target).__name__} holds no denoiser: looked for blocks and a timestep argument in "
            f"{', '.join(sorted(parts))}; pass the denoiser itself, with stack=skipcache.Stack(...)"
        )
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
    if getattr(module, "is_cache_enabled", False):
        raise ValueError(f"{name}: diffusers' own cache is enabled on it; call disable_cache() on it first")
    return module


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
