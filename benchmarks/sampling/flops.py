"""What a run computes, counted the same way for every method: by hooks on the modules that really run.

Every leaf module has the FLOPs that torch.utils.flop_counter counts for it in a call of the plain model. The FLOPs of a
run are the sum over the leaves that ran. So counting does not slow a run down much, and a block that runs in part
counts in part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def flop_counter(device: str = "cpu") -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of what runs in the context. On the CPU under MATH: the counter misses fused attention there.

    On cuda the counter knows all backends, and MATH would take the memory of whole attention matrices.
    """
    backend = nullcontext() if device == "cuda" else sdpa_kernel(SDPBackend.MATH)
    with backend, FlopCounterMode(display=False) as counter:
        yield counter


@dataclass
class Work:
    """Of a run. `blocks` counts block evaluations; one that ran in part counts by its share of the block's FLOPs."""

    flops: int = 0
    of_block: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # FLOPs that ran inside, by path
    whole: dict[str, int] = field(default_factory=dict)  # FLOPs of one evaluation, by path
    psnr: float = 0.0  # of the samples, against those of the plain run

    def forget(self) -> None:
        """Count from here on."""
        self.flops = 0
        self.of_block.clear()

    @property
    def blocks(self) -> float:
        return sum(flops / self.whole[path] for path, flops in self.of_block.items())


@dataclass(frozen=True)
class Leaf:
    """What one run of a leaf costs: its own FLOPs, and those since the leaf before it (attention's products)."""

    flops: int
    numel: int  # of its first tensor; a run on another batch costs in proportion


class Meter:
    """Weighs a plain model once; counts what runs of it, or of copies of it, compute."""

    def __init__(self, model: nn.Module, blocks: Sequence[str], run: Callable[[], Any], batch: int) -> None:
        self.blocks, self.batch = tuple(blocks), batch
        self.names = [name for name, module in model.named_modules() if not any(module.children())]
        self.leaves: dict[str, Leaf] = {}
        self.whole: dict[str, int] = defaultdict(int)
        with flop_counter(next(model.parameters()).device.type) as counter:
            last = 0

            def weigh(name: str, block: str | None, numel: int) -> None:
                nonlocal last
                flops, last = counter.get_total_flops() - last, counter.get_total_flops()
                if name not in self.leaves:
                    self.leaves[name] = Leaf(flops, numel)
                    if block is not None:
                        self.whole[block] += flops

            with self._hooked(model, weigh):
                run()

    @contextmanager
    def counting(self, model: nn.Module, batch: int) -> Iterator[Work]:
        """The work of the runs of `model` on so many images in this context."""
        work = Work(whole={path: flops * batch // self.batch for path, flops in self.whole.items()})

        def count(name: str, block: str | None, numel: int) -> None:
            leaf = self.leaves[name]
            flops = leaf.flops * numel // leaf.numel
            work.flops += flops
            if block is not None:
                work.of_block[block] += flops

        with self._hooked(model, count):
            yield work

    @contextmanager
    def _hooked(self, model: nn.Module, on_leaf: Callable[[str, str | None, int], None]) -> Iterator[None]:
        """Calls `on_leaf(name, block, numel)` after each run of a leaf; `block` is the one that runs, if any does."""
        inside: list[str] = []
        handles = []
        for path in self.blocks:
            block = model.get_submodule(path)
            handles.append(block.register_forward_pre_hook(lambda *_, path=path: inside.append(path)))
            handles.append(block.register_forward_hook(lambda *_: inside.pop() and None))
        for name in self.names:
            told = partial(_tell, on_leaf, name, inside)
            # with_kwargs: a leaf may be called by keyword alone
            handles.append(model.get_submodule(name).register_forward_hook(told, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _tell(
    on_leaf: Callable[[str, str | None, int], None],
    name: str,
    inside: list[str],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    numel = next((x.numel() for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), 1)
    on_leaf(name, inside[-1] if inside else None, numel)
