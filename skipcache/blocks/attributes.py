"""Attributes that torch and other libraries keep on a module, beside those of the model's own code."""

from __future__ import annotations

from types import CellType
from typing import Any

from torch import nn
from torch._C._dynamo import guards

CALL = "_compiled_call_impl"  # what `nn.Module.__call__` runs instead of the module's own call, where it is set
MARK = "_skipcache"  # an accelerated model has its override here too, where no wrapper hides it
REPLICATE = "_replicate_for_data_parallel"  # what DataParallel calls on each module, to copy it

# Where offloading, compiling and caching libraries, and we ourselves, hang what they wrap around a module.
WRAPPERS = frozenset({"forward", "_old_forward", "_hf_hook", "_diffusers_hook", "cache_context", CALL, MARK, REPLICATE})
HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
REGISTRIES = frozenset({"_modules", "_parameters", "_buffers"})
TORCH = frozenset(vars(nn.Module()))  # all that every module has
NOT_OWN = TORCH | WRAPPERS  # no state of a module's own: hooks move weights between devices, and that must stay


def modules_of(*models: nn.Module) -> list[nn.Module]:
    """All modules of the trees, each once, in the order of `modules()`, which takes several times as long."""
    found: list[nn.Module] = []
    seen: set[nn.Module] = set()
    ahead = list(reversed(models))
    while ahead:
        module = ahead.pop()
        if module not in seen:
            seen.add(module)
            found.append(module)
            if module._modules:
                ahead.extend(child for child in reversed(module._modules.values()) if child is not None)
    return found


def contents_of(cell: CellType) -> Any:
    """Of a closure's cell; None of an empty one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def tag_of(*dicts: dict[str, Any]) -> int | None:
    """A number that grows with each write to one of these, which torch.compile's guards read; None without."""
    read = getattr(guards, "dict_version", None)
    return None if read is None else sum(map(read, dicts))
