"""What a run of some modules may leave in their own state, however it is kept, to tell whether it has left anything.

Followed are the modules' attributes and buffers, and from there containers, arrays, generators of random numbers, what
objects and classes hold, and what functions keep. Where something is found of which it cannot be told whether it has
changed (an iterator, an object of another language), `opaque` says what it is. Forward hooks are the caller's own.
"""

from __future__ import annotations

import enum
import functools
import itertools
import logging
import os
import random
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from skipcache.blocks.attributes import NOT_OWN, contents_of
from skipcache.blocks.outline import equal_values

MOST = 4096  # values that are followed
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
_INERT = (
    *_TORCH,
    type,
    ModuleType,
    BuiltinFunctionType,
    enum.Enum,
    range,
    slice,
    re.Pattern,
    logging.Logger,
    numpy.dtype,
)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_NOT_FOLLOWED = (*_PLAIN, *_INERT, *_LOCKS)
_QUICK = frozenset((*_PLAIN, *_TORCH))
_HELD: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_NO_VALUE = object()
_COMPILERS = os.path.dirname(torch.__file__) + os.sep

State = Callable[[], Any]


class Footprint:
    """The state of `modules`, and of `others`, as it is now."""

    def __init__(self, modules: Iterable[nn.Module], others: Iterable[Any] = ()) -> None:
        self.opaque: str | None = None
        self._seen: set[int] = set()
        self._states: list[tuple[Any, State, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._weights: list[tuple[weakref.ref[Tensor], int]] = []
        self._ahead: list[Any] = [*modules, *others]
        while self._ahead and self.opaque is None:
            self._look_at(self._ahead.pop())
        self._ahead = []

    def changed(self) -> bool:
        """It is another state now, or that cannot be told."""
        return self.opaque is not None or not (
            all(_same(before, state()) for _, state, before in self._states)
            and all(equal_values(x, copy) for x, copy in self._tensors)
            and all(p._version == seen for made, seen in self._weights if (p := made()) is not None)
        )

    def _look_at(self, value: Any) -> None:
        if type(value) in _QUICK or id(value) in self._seen or isinstance(value, _NOT_FOLLOWED):
            return
        self._seen.add(id(value))
        if len(self._seen) > MOST:
            self.opaque = "more values than are compared"
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif (state := _state_of(value)) is not None:
            self._note(value, state)
        elif type(value).__module__.partition(".")[0] != "torch":
            self.opaque = f"a {type(value).__name__}"

    def _note(self, value: Any, state: State) -> None:
        before = state()
        self._states.append((value, state, before))  # the value is held, so that no other one gets its identity
        self._ahead.extend(x for x in before if type(x) not in _QUICK)

    def _tensor(self, x: Tensor) -> None:
        if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided or x.is_quantized:
            self.opaque = f"a {type(x).__name__} of a kind of its own"
        elif not x.is_meta:
            self._tensors.append((x, x.detach().clone()))

    def _module(self, module: nn.Module) -> None:
        held = module.__dict__
        self._note(module, lambda: _own(held))
        if module._buffers:
            self._note(module._buffers, lambda: list(module._buffers.values()))
        for p in module._parameters.values():
            if p is not None and not p.is_inference():
                self._weights.append((weakref.ref(p), p._version))
        self._ahead.extend(x for x in module._modules.values() if x is not None)


def _own(held: dict[str, Any]) -> list[Any]:
    """The attributes of a module, with their names, in order."""
    names: list[Any] = sorted(held.keys() - NOT_OWN)
    return names + [held[name] for name in names]


def _state_of(value: Any) -> State | None:
    """Reads what may change in `value`, as a list; None where that is not known."""
    if isinstance(value, dict):  # what a class makes of its items may be slow, or load a library
        own = _attributes_of(value)
        return lambda: [*dict.keys(value), *dict.values(value), *own()]
    if isinstance(value, MappingProxyType):
        return lambda: [*value.keys(), *value.values()]
    kind = next((kind for kind in _HELD if isinstance(value, kind)), None)
    if kind is not None:
        own, items = _attributes_of(value), kind.__iter__
        return lambda: [*items(value), *own()]
    if isinstance(value, numpy.ndarray):
        return None if value.dtype.hasobject else lambda: [str(value.shape), value.tobytes()]
    if isinstance(value, torch.Generator):
        return lambda: [value.get_state().numpy().tobytes()]
    if isinstance(value, random.Random):
        return lambda: [repr(value.getstate())]
    if isinstance(value, numpy.random.Generator):
        return lambda: [repr(value.bit_generator.state)]
    if isinstance(value, numpy.random.RandomState):
        return lambda: [repr(value.get_state())]
    if isinstance(value, ContextVar):
        return lambda: [value.get(_NO_VALUE)]
    if isinstance(value, itertools.count):
        return lambda: [repr(value)]
    if isinstance(value, weakref.ref):
        return lambda: [value()]
    if isinstance(value, CellType):
        return lambda: [contents_of(value)]
    return _code_of(value) or _object_of(value)


def _code_of(value: Any) -> State | None:
    if isinstance(value, MethodType):
        return lambda: [value.__func__, value.__self__]
    if isinstance(value, (BuiltinFunctionType, MethodWrapperType)):
        return lambda: [value.__self__]
    if isinstance(value, functools.partial):
        return lambda: [value.func, value.args, value.keywords]
    if isinstance(value, (staticmethod, classmethod)):
        return lambda: [value.__func__]
    if isinstance(value, property):
        return lambda: [value.fget]
    if isinstance(value, FunctionType):
        if value.__code__.co_filename.startswith(_COMPILERS):  # what `torch.compile` made of a function
            return lambda: [getattr(value, "__wrapped__", None)]
        return lambda: [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, value.__dict__]
    return None


def _object_of(value: Any) -> State | None:
    kind = type(value)
    if kind.__module__.partition(".")[0] == "torch" or hasattr(kind, "__next__"):
        return None
    return _attributes_of(value) if _slots_of(kind) or _dict_of(value) is not None else None


def _attributes_of(value: Any) -> State:
    """Those that an object keeps in its dict and in its slots."""
    slots = _slots_of(type(value))

    def state() -> list[Any]:
        held = _dict_of(value)
        mine = [x for name, kept in held.items() for x in (name, kept)] if held else []
        return [*mine, *(getattr(value, name, _NO_VALUE) for name in slots)]

    return state


def _dict_of(value: Any) -> dict[str, Any] | None:
    try:
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return held if isinstance(held, dict) else None


def _slots_of(kind: type) -> list[str]:
    return [name for base in kind.__mro__ for name in _names(base.__dict__.get("__slots__", ()))]


def _names(slots: Any) -> tuple[str, ...]:
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(_is_same, before, now))


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, _PLAIN + _TORCH) and bool(one == other)
