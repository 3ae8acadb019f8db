"""What a graph took for constant of a model, and whether it still holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.blocks import REGISTRIES, WRAPPERS

_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device)
_NOT_OURS = WRAPPERS | REGISTRIES


class Guard:
    """Holds while glue modules have the attributes, children and tensors that they had, and leaves their dtypes.

    Not looked at: the values of tensors, which a graph reads anew; their devices, since offloading moves weights
    between steps; and what else goes on inside a leaf.
    """

    def __init__(self, glue: Iterable[nn.Module], leaves: Iterable[nn.Module]) -> None:
        self._same: list[tuple[Mapping[str, Any], str, Any]] = []
        self._equal: list[tuple[Mapping[str, Any], str, Any, Any]] = []
        self._alike: list[tuple[Mapping[str, Any], str, Any]] = []
        self._sizes: list[tuple[Mapping[str, Any], int]] = []
        for module in glue:
            for held in (module._modules, module._parameters, module._buffers):
                self._sizes.append((held, len(held)))
                self._note(held, held)
            self._note(module.__dict__, module.__dict__.keys() - _NOT_OURS)
        for module in leaves:
            self._note_first_parameter(module)

    def holds(self) -> bool:
        return (
            all(held.get(name) is seen for held, name, seen in self._same)
            and all(held.get(n) is value or _look(held.get(n)) == seen for held, n, value, seen in self._equal)
            and all(_look(held.get(name)) == seen for held, name, seen in self._alike)
            and all(len(held) == size for held, size in self._sizes)
        )

    def _note(self, held: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            value, look = held[name], _look(held[name])
            if look is value:
                self._same.append((held, name, value))
            elif type(value) in _PLAIN:
                self._equal.append((held, name, value, look))
            else:
                self._alike.append((held, name, look))

    def _note_first_parameter(self, module: nn.Module) -> None:
        for inner in module.modules():
            for name, p in inner._parameters.items():
                if p is not None and p.is_floating_point():
                    self._note(inner._parameters, [name])
                    return


class _Look(tuple[Any, ...]):
    """A value from outside, to compare."""


def _look(value: Any) -> Any:
    """A tensor's shape and dtype, plain values with their types; anything else as it is, to be told by identity."""
    if isinstance(value, Tensor):
        return _Look((value.shape, value.dtype))
    if type(value) in _PLAIN:
        return _Look((type(value), value))
    if type(value) in (list, tuple):
        return _Look((type(value), *map(_identity, value)))
    if type(value) is dict:
        return _Look((dict, *value, *map(_identity, value.values())))
    return value


def _identity(value: Any) -> Any:
    """A graph finds no path to a tensor in a container: it holds that very tensor."""
    if isinstance(value, Tensor):
        return id(value)
    look = _look(value)
    return id(value) if look is value else look
