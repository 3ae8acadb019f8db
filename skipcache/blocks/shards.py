"""A model that several processes hold together: over which groups, and what its blocks are then given.

Read are DTensor parameters (FSDP2, tensor parallelism), and the settings and hooks of diffusers' parallelism. Other
ways to share a model are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

SPLIT = "ContextParallelSplitHook"  # diffusers': splits the arguments of a module, once its forward is called


def groups_of(model: nn.Module) -> list[Any]:
    """The process groups that must run the same blocks: those over which weights or the sequence are divided."""
    found: dict[str, Any] = {}
    for mesh, dimension in _divided(model):
        if mesh.size(dimension) > 1:
            group = mesh.get_group(dimension)
            found.setdefault(group.group_name, group)
    return list(found.values())


def sequence_group(model: nn.Module) -> Any:
    """The processes that each hold a part of every image's tokens; None where the sequence is whole."""
    mesh = _context_mesh(model)
    return None if mesh is None or mesh.size() < 2 else mesh.get_group()


def named_group(model: nn.Module, dimension: str) -> Any:
    """The group of a dimension, by its name, of a mesh that the model is divided over.

    Raises ValueError where no mesh has such a dimension.
    """
    names: list[str] = []
    for mesh, _ in _divided(model):
        for one in (mesh, _root_of(mesh)):
            if dimension in (one.mesh_dim_names or ()):
                return one.get_group(dimension)
            names += one.mesh_dim_names or ()
    known = ", ".join(dict.fromkeys(names)) or "none"
    raise ValueError(
        f"agree: expected a dimension of a mesh that {type(model).__name__} is sharded over ({known}), got "
        f"{dimension!r}; True is the default process group"
    )


def class_name(model: nn.Module) -> str:
    """Of its class before FSDP2 put another one in its place."""
    kind = type(model)
    made = kind.__name__.startswith("FSDP") and any(base.__name__ == "FSDPModule" for base in kind.__mro__)
    return kind.__name__.removeprefix("FSDP") if made else kind.__name__


def is_divided(x: Any) -> bool:
    """`x` is a DTensor."""
    return hasattr(x, "device_mesh") and hasattr(x, "placements")


def as_entering(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The arguments as the module's own forward gets them, behind diffusers' hooks that split them by process."""
    registry: Any = module.__dict__.get("_diffusers_hook")
    for name in reversed(getattr(registry, "_hook_order", ())):
        hook = registry.hooks[name]
        if type(hook).__name__ == SPLIT:
            args, kwargs = hook.pre_forward(module, *args, **kwargs)
    return args, kwargs


def whole_argument(model: nn.Module, name: str, part: Tensor) -> Tensor:
    """An argument of the model's forward as the caller gave it, where diffusers' hooks have split it by process.

    All processes must ask: the parts are gathered. Another argument as it is.
    """
    registry = model.__dict__.get("_diffusers_hook")
    hooks = [] if registry is None else [hook for hook in registry.hooks.values() if type(hook).__name__ == SPLIT]
    plans = [plan for hook in hooks for plan in [hook.metadata.get(name)] if plan is not None and not plan.split_output]
    if not plans or plans[0].expected_dims not in (None, part.ndim):
        return part
    group, dimension = sequence_group(model), plans[0].split_dim
    sizes = [part.shape[dimension]] * distributed.get_world_size(group)
    config = model.__dict__["_parallel_config"].context_parallel_config
    if any(getattr(config, name, False) for name in ("ulysses_anything", "ring_anything")):  # parts of several sizes
        distributed.all_gather_object(sizes, part.shape[dimension], group=group)
    before, after = part.shape[:dimension], part.shape[dimension + 1 :]
    parts = [part.new_empty((*before, size, *after)) for size in sizes]
    distributed.all_gather(parts, part.contiguous(), group=group)
    return torch.cat(parts, dimension)


def _divided(model: nn.Module) -> Iterator[tuple[Any, int]]:
    """(mesh, dimension), for each over which something of the model is divided."""
    context = _context_mesh(model)
    if context is not None:
        yield context, 0
    seen: list[tuple[Any, Any]] = []
    parameters: Iterator[Any] = model.parameters()
    for p in parameters:
        if is_divided(p) and not any(p.device_mesh is mesh and p.placements == placed for mesh, placed in seen):
            seen.append((p.device_mesh, p.placements))
            yield from ((p.device_mesh, i) for i, one in enumerate(p.placements) if not one.is_replicate())


def _context_mesh(model: nn.Module) -> Any:
    config = getattr(model.__dict__.get("_parallel_config"), "context_parallel_config", None)
    return getattr(config, "_flattened_mesh", None)


def _root_of(mesh: Any) -> Any:
    """The mesh that `mesh` is a part of; itself where torch does not tell."""
    root = getattr(mesh, "_get_root_mesh", None)
    return mesh if root is None else root()


def whole_of(x: Any) -> Tensor:
    """A DTensor's value on all processes, gathered; they must all ask. Another tensor as it is."""
    whole: Tensor = x.full_tensor() if is_divided(x) else x
    return whole


def divided_like(x: Tensor, like: Tensor) -> Tensor:
    """The whole tensor `x`, divided over processes as `like` is; they must all ask."""
    if not is_divided(like):
        return x
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(x.to(like.device, like.dtype), mesh, placements)


def reshard(model: nn.Module) -> None:
    """Let FSDP2 register the sharded parameters again: after a forward a root module has whole ones, for a while."""
    if distributed.is_available() and distributed.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
