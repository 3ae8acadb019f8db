"""Where the blocks of a denoiser are: model -> a frozen `Stack`, from an adapter or by structure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

from torch import Tensor, nn

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
    """The stack of a denoiser that nobody has registered: its ModuleLists of blocks, in the order of registration.

    The order is checked when the model first runs. Blocks are taken for such when they have children of their own, and
    all blocks of a list are of one class.
    """
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    timestep = next((n for n in TIMESTEP_NAMES if n in names), None)
    if timestep is None:
        raise ValueError(
            f"{type(model).__name__}.forward has no timestep argument: "
            f"looked for {', '.join(TIMESTEP_NAMES)} among {names}; "
            f"pass stack=skipcache.Stack(units=..., sample=..., timestep=...)"
        )
    lists = _main_lists(model)
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no stack: looked for a ModuleList of two or more blocks of one class, with "
            f"submodules of their own; pass stack=skipcache.Stack(units=((path,), ...), sample=..., timestep=...)"
        )
    units = tuple((f"{path}.{i}",) for path, blocks in lists for i in range(len(blocks)))
    return Stack(units, sample=next(n for n in names if n != timestep), timestep=timestep)


def one_per_block(model: nn.Module, *paths: str) -> tuple[tuple[str, ...], ...]:
    """Units of one block each: the ModuleLists at `paths`, one after the other, where there are any."""
    lists = ((path, getattr(model, path, None)) for path in paths)
    return tuple(
        (f"{path}.{i}",) for path, blocks in lists if isinstance(blocks, nn.ModuleList) for i in range(len(blocks))
    )


def _main_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of blocks beside the one that holds most parameters, under the same parent."""
    found = list(_block_lists(model))
    if not found:
        return []
    main = max(found, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    parent = main[0].rpartition(".")[0]
    return [(path, blocks) for path, blocks in found if path.rpartition(".")[0] == parent]


def _block_lists(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList) and _are_blocks(child):
            yield path, child
        else:
            yield from _block_lists(child, f"{path}.")


def _are_blocks(modules: nn.ModuleList) -> bool:
    return len(modules) > 1 and len({type(m) for m in modules}) == 1 and any(True for _ in modules[0].children())


def _adapters() -> list[Callable[[nn.Module], Stack | None]]:
    return [point.load() for point in entry_points(group="skipcache.adapters")]
