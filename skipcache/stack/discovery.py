"""Which stack a model has: what an adapter says, else what its structure shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

from torch import nn

from skipcache.stack.arguments import argument_names
from skipcache.stack.skips import are_halves, lone_blocks, takes_skip
from skipcache.stack.stack import Stack

SAMPLE_NAMES = ("hidden_states", "x", "sample")
TIMESTEP_NAMES = ("timestep", "timesteps", "t", "time", "sigma", "sigmas", "noise_level", "noise_labels")


def find_stack(model: nn.Module) -> Stack:
    """The stack of `model`: what the first adapter that knows it says, else what its structure shows.

    Args:
        model: a denoiser. It is not run.

    Raises ValueError, naming what was looked for, where neither finds a stack.

    Example:
        print(skipcache.find_stack(pipe.transformer).units)
    """
    for describe in _adapters():
        stack = describe(model)
        if stack is not None:
            return stack
    return describe_by_structure(model)


def describe_by_structure(model: nn.Module) -> Stack:
    """The stack of a denoiser that nobody has registered, by its module tree and its signatures alone.

    The order of the blocks is checked when the model first runs.
    """
    names = argument_names(model)
    timestep = next((n for n in TIMESTEP_NAMES if n in names), next((n for n in names if "time" in n), None))
    if timestep is None:
        raise ValueError(
            f"{type(model).__name__}.forward has no timestep argument: "
            f"looked for {', '.join(TIMESTEP_NAMES)} among {names}; "
            f"pass stack=skipcache.Stack(units=..., sample=..., timestep=...)"
        )
    units = _main_units(model)
    if not units:
        raise ValueError(
            f"{type(model).__name__} has no stack: looked for a ModuleList of two or more blocks that take the feature "
            f"and something beside it; pass stack=skipcache.Stack(units=((path,), ...), sample=..., timestep=...)"
        )
    sample = next((n for n in SAMPLE_NAMES if n in names), next(n for n in names if n != timestep))
    return Stack(
        units,
        sample,
        timestep,
        native_skips=any(takes_skip(model.get_submodule(path)) for unit in units for path in unit),
    )


def one_per_block(model: nn.Module, *paths: str) -> tuple[tuple[str, ...], ...]:
    """Units of one block each: the ModuleLists at `paths`, one after the other, where there are any."""
    lists = ((path, getattr(model, path, None)) for path in paths)
    return tuple(
        (f"{path}.{i}",) for path, blocks in lists if isinstance(blocks, nn.ModuleList) for i in range(len(blocks))
    )


def _main_units(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The longest list of blocks (the last of equals) ends the stack; lists before it join while they fit.

    A list fits if its blocks are larger: they run first, on more streams (Flux's double blocks before its single ones).
    Or if they are as many, of one class and no smaller: then the two alternate, and a unit is one block of each.
    Refiners of noise or text before a stack are shorter lists of blocks that are no larger; adapters and control
    branches are shorter lists registered after it. In a U (U-ViT) the second of two lists takes skips from the first,
    and a lone block may stand between them.
    """
    lists = _block_lists(model)
    if not lists:
        return ()
    depth = max(len(blocks) for _, blocks in lists)
    end = max(i for i, (_, blocks) in enumerate(lists) if len(blocks) == depth)
    alone = lone_blocks(model, *lists[end])
    if end and len(alone) < 2 and are_halves(lists[end - 1][1], lists[end][1]):
        return tuple((path,) for path in (*_paths(*lists[end - 1]), *alone, *_paths(*lists[end])))
    if alone:
        raise ValueError(
            f"{type(model).__name__}: expected all blocks in lists, got {', '.join(alone)} beside {lists[end][0]}, "
            f"of the same class; pass stack=skipcache.Stack(units=((path,), ...), sample=..., timestep=...), "
            f"with the blocks in running order"
        )
    stages = [[lists[end]]]  # a stage: one list, or several that alternate
    for path, blocks in reversed(lists[:end]):
        after = stages[0][0][1]
        if type(blocks[0]) is type(after[0]) and len(blocks) == len(after) and _size(blocks) >= _size(after):
            stages[0].insert(0, (path, blocks))
        elif _size(blocks) > 1.2 * _size(after):
            stages.insert(0, [(path, blocks)])
        else:
            break
    columns = ([_paths(path, blocks) for path, blocks in stage] for stage in stages)
    return tuple(unit for column in columns for unit in zip(*column))


def _paths(path: str, blocks: nn.ModuleList) -> list[str]:
    return [f"{path}.{i}" for i in range(len(blocks))]


def _block_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The shallowest ModuleLists of blocks, in order of registration."""
    level: list[tuple[str, nn.Module]] = [("", model)]
    while level:
        lists = [
            (path, m) for path, m in level if isinstance(m, nn.ModuleList) and len(m) > 1 and all(map(_is_block, m))
        ]
        if lists:
            return lists
        level = [
            (f"{path}.{name}".lstrip("."), child)
            for path, m in level
            if not isinstance(m, nn.ModuleList)
            for name, child in m.named_children()
        ]
    return []


def _is_block(module: nn.Module) -> bool:
    """A block takes the feature and something beside it; projections and norms take one argument."""
    containers = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
    return not isinstance(module, containers) and len(inspect.signature(module.forward).parameters) > 1


def _size(blocks: nn.ModuleList) -> int:
    return sum(p.numel() for p in blocks[0].parameters())


def _adapters() -> list[Callable[[nn.Module], Stack | None]]:
    return [point.load() for point in entry_points(group="skipcache.adapters")]
