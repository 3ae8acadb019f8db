"""Where the blocks of a denoiser are: model -> a frozen `Stack`, from an adapter or by structure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from torch import Tensor, nn

SAMPLE_NAMES = ("hidden_states", "x", "sample")
TIMESTEP_NAMES = ("timestep", "timesteps", "t", "time", "sigma", "sigmas", "noise_level", "noise_labels")


@dataclass(frozen=True)
class Stack:
    """The ordered units of a denoiser, named by paths, so that it holds for every copy of the model.

    Attributes:
        units: dotted paths of the blocks by unit, in running order: `(("blocks.0",), ("blocks.1",))`, or pairs.
        sample, timestep: the names of `forward`'s arguments.
        transposed: the blocks that work on (batch * tokens, frames, D) while the others work on (batch * frames,
            tokens, D); empty where all blocks share one layout.
        native_skips: the stack has skip branches of its own.
        reuse: the form that keeps most on this family, "forecast" or "hold".
    """

    units: tuple[tuple[str, ...], ...]
    sample: str = "hidden_states"
    timestep: str = "timestep"
    transposed: frozenset[str] = frozenset()
    native_skips: bool = False
    reuse: str = "forecast"

    def __post_init__(self) -> None:
        if not self.units or not all(self.units):
            raise ValueError(
                f"Stack: expected at least one unit, each with at least one block, got units={self.units!r}"
            )
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"Stack: expected each block once, got {self.blocks}; a shared block can't be cached")
        if self.reuse not in ("forecast", "hold"):
            raise ValueError(f"Stack: expected reuse 'forecast' or 'hold', got {self.reuse!r}")

    @property
    def enters_canonical(self) -> bool:
        """What enters the first block and what the last one of a unit hands out are known to share a layout."""
        return bool(self.transposed) or len(self.units[0]) == 1

    @property
    def blocks(self) -> tuple[str, ...]:
        """All paths in running order."""
        return tuple(path for unit in self.units for path in unit)

    def canonical(self, path: str, x: Tensor, batch: int) -> Tensor:
        """A stream of the block at `path` in the layout that all blocks share, a view of `x`.

        With transposed blocks that is (batch, frames, tokens, D); else `x` as it is.
        """
        if not self.transposed:
            return x
        x = x.unflatten(0, (batch, -1))
        return x.transpose(1, 2) if path in self.transposed else x

    def raw(self, path: str, x: Tensor, batch: int) -> Tensor:
        """The inverse of `canonical`: contiguous, as the block itself would have it."""
        if not self.transposed:
            return x
        return (x.transpose(1, 2) if path in self.transposed else x).flatten(0, 1).contiguous()


def find_stack(model: nn.Module) -> Stack:
    """The stack of `model`: what the first adapter that knows it says, else what its structure shows.

    Raises ValueError, naming what was looked for, where neither finds one.
    """
    for describe in _adapters():
        stack = describe(model)
        if stack is not None:
            return stack
    return describe_by_structure(model)


def check_stack(model: nn.Module, stack: Stack) -> None:
    """Raises TypeError where `stack` is no Stack, ValueError for a path or an argument that `model` lacks."""
    if not isinstance(stack, Stack):
        raise TypeError(f"stack: expected a skipcache.Stack, got {type(stack).__name__}")
    for path in stack.blocks:
        try:
            model.get_submodule(path)
        except AttributeError:
            raise ValueError(
                f"stack: {type(model).__name__} has no block at {path!r}; name paths as in named_modules()"
            ) from None
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    for role in ("sample", "timestep"):
        if getattr(stack, role) not in names:
            raise ValueError(
                f"stack: {type(model).__name__}.forward has no argument {getattr(stack, role)!r} for the {role}, "
                f"only {names}; pass stack=Stack(..., {role}=...)"
            )


def describe_by_structure(model: nn.Module) -> Stack:
    """The stack of a denoiser that nobody has registered, by its module tree and its signatures alone.

    The order of the blocks is checked when the model first runs.
    """
    names = list(inspect.signature(type(model).forward).parameters)[1:]
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
    skips = _has_skips(model, units)
    return Stack(units, sample, timestep, native_skips=skips, reuse="hold" if skips else "forecast")


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
    branches are shorter lists registered after it.
    """
    lists = _block_lists(model)
    if not lists:
        return ()
    depth = max(len(blocks) for _, blocks in lists)
    end = max(i for i, (_, blocks) in enumerate(lists) if len(blocks) == depth)
    stages = [[lists[end]]]  # a stage: one list, or several that alternate
    for path, blocks in reversed(lists[:end]):
        after = stages[0][0][1]
        if type(blocks[0]) is type(after[0]) and len(blocks) == len(after) and _size(blocks) >= _size(after):
            stages[0].insert(0, (path, blocks))
        elif _size(blocks) > 1.2 * _size(after):
            stages.insert(0, [(path, blocks)])
        else:
            break
    columns = ([[f"{path}.{i}" for i in range(len(blocks))] for path, blocks in stage] for stage in stages)
    return tuple(unit for column in columns for unit in zip(*column))


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


def _has_skips(model: nn.Module, units: tuple[tuple[str, ...], ...]) -> bool:
    """The blocks take the output of an earlier one by an argument of its own."""
    blocks = (model.get_submodule(path) for unit in units for path in unit)
    return any("skip" in name for block in blocks for name in inspect.signature(block.forward).parameters)


def _adapters() -> list[Callable[[nn.Module], Stack | None]]:
    return [point.load() for point in entry_points(group="skipcache.adapters")]
