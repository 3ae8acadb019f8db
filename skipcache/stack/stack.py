"""Where the blocks of a denoiser are: a frozen `Stack` of paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from skipcache.stack.arguments import argument_names


@dataclass(frozen=True)
class Stack:
    """The ordered units of a denoiser. They are named by paths, so that a stack fits every copy of the model.

    Args:
        units: dotted paths of the blocks by unit, in running order: `(("blocks.0",), ("blocks.1",))`. A unit is one
            repeat of the stack; Latte's is a (spatial, temporal) pair of blocks.
        sample, timestep: the names of `forward`'s arguments.
        transposed: the blocks that work on (batch * tokens, frames, D) while the others work on (batch * frames,
            tokens, D); empty where all blocks share one layout.
        native_skips: the stack has skip branches of its own, as Skip-DiT (arXiv 2411.17616) and HunyuanDiT have.
            `Hold` is then the default predictor.

    Raises ValueError for a stack without units, with a block twice, or with one argument for sample and timestep.

    Example:
        stack = skipcache.Stack((("layers.0",), ("layers.1",), ("layers.2",)), sample="x", timestep="t")
        skipcache.accelerate(model, interval=3, stack=stack)
    """

    units: tuple[tuple[str, ...], ...]
    sample: str = "hidden_states"
    timestep: str = "timestep"
    transposed: frozenset[str] = frozenset()
    native_skips: bool = False

    def __post_init__(self) -> None:
        if not self.units or not all(self.units):
            raise ValueError(
                f"Stack: expected at least one unit, each with at least one block, got units={self.units!r}"
            )
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"Stack: expected each block once, got {self.blocks}; a shared block can't be cached")
        if self.sample == self.timestep:
            raise ValueError(f"Stack: expected two arguments, sample and timestep, got {self.sample!r} for both")

    @property
    def enters_canonical(self) -> bool:
        """What enters the first block and what the last one of a unit hands out are known to share a layout."""
        return bool(self.transposed) or len(self.units[0]) == 1

    @cached_property
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
    names = argument_names(model)
    for role in ("sample", "timestep"):
        if getattr(stack, role) not in names:
            raise ValueError(
                f"stack: {type(model).__name__}.forward has no argument {getattr(stack, role)!r} for the {role}, "
                f"only {names}; pass stack=Stack(..., {role}=...)"
            )
