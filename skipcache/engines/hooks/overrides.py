"""What stands in for the calls of the blocks."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipcache.blocks import CallOverride
from skipcache.blocks.attributes import CALL

if TYPE_CHECKING:
    from skipcache.engines.hooks.engine import HookEngine


class BlockCall(CallOverride):
    """Stands in for the call of one block. It does not keep its engine, which keeps it."""

    def __init__(self, engine: HookEngine, index: int, block: nn.Module) -> None:
        super().__init__(block)
        self._engine, self.index = weakref.ref(engine), index

    @property
    def engine(self) -> HookEngine | None:
        return self._engine()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        engine = state["_engine"]
        self.__dict__.update(state, _engine=_nothing if engine is None else weakref.ref(engine))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine = None if torch.compiler.is_compiling() else self._engine()
        run = None if engine is None else engine.run
        return self.plain(*args, **kwargs) if run is None else run.block(self, args, kwargs)


def _nothing() -> None:
    """The engine of a call whose engine is gone."""


def overrides(engine: HookEngine) -> list[BlockCall]:
    """One for each block of the stack, not put on yet. Raises AttributeError where the model has no such block."""
    return [BlockCall(engine, i, engine.model.get_submodule(path)) for i, path in enumerate(engine.stack.blocks)]


def still_there(model: nn.Module, paths: Sequence[str], blocks: Sequence[BlockCall]) -> bool:
    """The blocks at `paths` are those that the overrides stand in for."""
    places = [path.rpartition(".")[::2] for path in paths]
    held = {parent: model.get_submodule(parent)._modules for parent in {parent for parent, _ in places}}
    now = (held[parent].get(name) if name else model for parent, name in places)
    return all(module is block.module for block, module in zip(blocks, now))


def in_place(blocks: Sequence[BlockCall]) -> bool:
    """All of them are on. A copy of the model and a `compile()` of a block drop them."""
    return all(block.module.__dict__.get(CALL) is block for block in blocks)
