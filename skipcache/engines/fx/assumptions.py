"""What a graph took for constant of a model, and whether it still holds."""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from skipcache.blocks import REGISTRIES, TORCH, WRAPPERS
from skipcache.engines.fx.errors import Untraceable
from skipcache.engines.fx.reads import Reads, class_places, is_foreign
from skipcache.trajectory import Call

PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device)
_NOT_OURS = WRAPPERS | REGISTRIES
_AROUND = TORCH - {"training"}
_DEPTH = 4  # how far into containers and objects a guard looks
_MOST = 1 << 14  # bytes of a NumPy array that are compared on each call
_AS_THEY_ARE = (type, types.ModuleType, types.FunctionType, types.MethodType, nn.Module)


class Guard:
    """Holds while glue modules have the children, tensors and attributes that they had, and leaves their dtypes.

    Of the attributes those count that the code names which ran while the forward was traced.

    So it does while what the forward's code could read beside them is what it was: globals, attributes of classes,
    closures, and what is in the objects among all of these. Not looked at: the values of tensors, which a graph reads
    anew; their devices, since offloading moves weights between steps; and what else goes on inside a leaf.
    """

    def __init__(
        self,
        glue: Iterable[nn.Module],
        leaves: Iterable[nn.Module],
        reads: Reads | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._same: list[tuple[Mapping[str, Any], str, Any]] = []
        self._equal: list[tuple[Mapping[str, Any], str, Any, Any]] = []
        self._alike: list[tuple[Mapping[str, Any], str, Any]] = []
        self._sizes: list[tuple[Mapping[str, Any], int]] = []
        self._missing: list[tuple[Mapping[str, Any], frozenset[str]]] = []
        glue = list(glue)
        for module in glue:
            for held in (module._modules, module._parameters, module._buffers):
                self._sizes.append((held, len(held)))
                self._note(held, held)
            around = _AROUND if module is model else frozenset()  # what runs outside of the model's forward
            kept = module.__dict__.keys() - _NOT_OURS - around
            self._note(module.__dict__, kept if reads is None else kept & reads.names)
        for module in leaves:
            self._note_first_parameter(module)
        if reads is not None:
            self._note_reads(reads, glue)

    def holds(self) -> bool:
        return (
            all(held.get(name) is seen for held, name, seen in self._same)
            and all(held.get(n) is value or _look(held.get(n)) == seen for held, n, value, seen in self._equal)
            and all(_look(held.get(name)) == seen for held, name, seen in self._alike)
            and all(len(held) == size for held, size in self._sizes)
            and all(names.isdisjoint(held) for held, names in self._missing)
        )

    def _note_reads(self, reads: Reads, glue: list[nn.Module]) -> None:
        """What the forward's code could read, each place once. No instance may hide its class's attributes."""
        names = reads.names
        places = [*reads.places(), *(place for kind in set(map(type, glue)) for place in class_places(kind, names))]
        for held, name in {(id(held), name): (held, name) for held, name in places}.values():
            self._note(held, [name])
        for module in glue:
            self._missing.append((module.__dict__, names - module.__dict__.keys() - _NOT_OURS))

    def _note(self, held: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            value, look = held[name], _look(held[name])
            if look is value:
                self._same.append((held, name, value))
            elif type(value) in PLAIN:
                self._equal.append((held, name, value, look))
            else:
                self._alike.append((held, name, look))

    def _note_first_parameter(self, module: nn.Module) -> None:
        for inner in module.modules():
            for name, p in inner._parameters.items():
                if p is not None and p.is_floating_point():
                    self._note(inner._parameters, [name])
                    return


def unfit_argument(call: Call) -> str | None:
    """What is in an object, or in a NumPy array, shows in no signature."""
    odd = (x for x in call.conditioning if not (x is None or isinstance(x, PLAIN)))
    kind = next((type(x).__name__ for x in odd if not isinstance(x, Tensor)), None)
    return kind and f"an argument is of type {kind}, and a graph would take what is in it for constant"


class _Look(tuple[Any, ...]):
    """A value from outside, to compare."""


def _look(value: Any, depth: int = _DEPTH) -> Any:
    """What of a value may change, to compare: a tensor's shape and dtype, plain values with their types, what is in
    containers and objects. Anything else as it is, to be told by identity."""
    if isinstance(value, Tensor):
        return _Look((value.shape, value.dtype))
    if type(value) in PLAIN:
        return _Look((type(value), value))
    if isinstance(value, numpy.ndarray):
        return _Look((value.shape, value.dtype, _bytes(value)))
    if depth == 0 or value is None or isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, (list, tuple)):
        return _Look((type(value), *(_identity(item, depth - 1) for item in value)))
    if isinstance(value, set):
        return _Look((set, *sorted(map(id, value))))
    if isinstance(value, Mapping):
        return _Look((type(value), *value, *(_identity(item, depth - 1) for item in value.values())))
    if isinstance(value, (types.SimpleNamespace, argparse.Namespace)) or _is_own(value):
        return _Look(
            (type(value), id(value), *vars(value), *(_identity(item, depth - 1) for item in vars(value).values()))
        )
    return value


def _is_own(value: Any) -> bool:
    """An object of a class that is neither torch's nor Python's own, with attributes."""
    return hasattr(value, "__dict__") and not is_foreign(type(value).__module__)


def _bytes(array: Any) -> bytes:
    if array.nbytes > _MOST or array.dtype.hasobject:
        raise Untraceable("the forward may read a NumPy array, which is too large to be compared on each call")
    return bytes(array.tobytes())


def _identity(value: Any, depth: int) -> Any:
    """A graph finds no path to a tensor in a container: it holds that very tensor."""
    if isinstance(value, Tensor):
        return id(value)
    look = _look(value, depth)
    return id(value) if look is value else look
