"""What lies outside a model and its forward may change: counters and flags that other code keeps.

Found are the variables that the code of the model's classes names, and from there the attributes of objects and classes
and the contents of containers, a few steps far. Not found: what only code of an installed library reaches (torch,
diffusers), attributes made by `__slots__`, and what no Python object holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from skipcache.blocks.attributes import NOT_OWN, contents_of, tag_of

DEPTH = 4  # how far from the code of a class
LONGEST = 1000  # items of a container that is looked at
_LIBRARIES = ("torch", "numpy", "diffusers", "transformers", "accelerate", "peft", "einops", "skipcache")
_FOREIGN = frozenset((*sys.stdlib_module_names, *_LIBRARIES))
CONTAINERS = (list, dict, set)
_PLAIN = frozenset((bool, int, float, str, type(None)))
_CODE = (FunctionType, MethodType, classmethod, staticmethod, property)


@dataclass(frozen=True)
class _Place:
    """Variables by name or index: how to read them all, and how to write them."""

    owner: str
    read: Callable[[], dict[Any, Any]]
    write: Callable[[dict[Any, Any]], None]


class Outside:
    """The places outside of `modules` as they are now.

    Attributes:
        modules: those.
        own: by their order, the containers among the attributes of each, and a `tag` of the attributes as they were.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        search = _Search(self.modules)
        self._places = list(search.found())
        self.own = search.own
        self._before = [place.read() for place in self._places]

    def changed(self, kind: type = object) -> list[str]:
        """The variables that are others than they were, by name; those of `kind` alone."""
        found = []
        for place, before in zip(self._places, self._before):
            now = place.read()
            for name in {**before, **now}:
                one, other = before.get(name, _ABSENT), now.get(name, _ABSENT)
                if not _same(one, other) and kind in (object, type(one), type(other)):
                    found.append(f"{place.owner}{name}")
        return found

    @property
    def values(self) -> list[Any]:
        """What they held when they were looked for."""
        return [value for before in self._before for value in before.values()]

    def put_back(self) -> None:
        for place, before in zip(self._places, self._before):
            now = place.read()
            if now.keys() != before.keys() or not all(_same(now[name], before[name]) for name in now):
                place.write(before)


_ABSENT = object()


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in _PLAIN and one == other)


class _Search:
    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._seen: set[int] = set()
        self.own: list[tuple[int | None, list[Any]]] = []

    def found(self) -> Iterator[_Place]:
        for kind in {type(module): None for module in self._modules}:
            for base in kind.__mro__:
                own = base is kind and not kind.__module__.startswith("torch.")  # MagCache sets counters on diffusers'
                if (own or not _foreign(base)) and id(base) not in self._seen:
                    yield from self._class(base, 0)
        for module in self._modules:
            held = module.__dict__
            names = sorted(name for name in held.keys() - NOT_OWN if type(held[name]) not in _PLAIN)
            self.own.append((tag_of(held), [held[name] for name in names if type(held[name]) in CONTAINERS]))
            for name in names:
                for value in _items(held[name]):  # the containers themselves are the model's own
                    yield from self._value(value, f"{name}.", 1)

    def _value(self, value: Any, name: str, depth: int) -> Iterator[_Place]:
        if depth > DEPTH or id(value) in self._seen or isinstance(value, nn.Module):
            return
        self._seen.add(id(value))
        kind = type(value)
        if isinstance(value, MethodType):
            yield from self._value(value.__func__, name, depth)
            yield from self._value(value.__self__, name, depth)
        elif kind is FunctionType:
            yield from self._function(value, depth)
        elif isinstance(value, type):
            if not _foreign(value):
                yield from self._class(value, depth)
        elif kind in CONTAINERS:
            yield from self._container(value, name, depth)
        elif not _foreign(kind) and isinstance(getattr(value, "__dict__", None), dict):
            yield from self._held(value.__dict__, f"{kind.__name__}.", depth)

    def _function(self, function: FunctionType, depth: int) -> Iterator[_Place]:
        if not _foreign(function):
            names = set(_names(function.__code__))
            yield from self._named(function.__globals__, names, depth)
            yield from self._held(function.__dict__, f"{function.__name__}.", depth)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if not _foreign(function):
                yield _cell(name, cell)
            yield from self._value(contents_of(cell), f"{name}.", depth + 1)

    def _named(self, held: dict[str, Any], names: set[str], depth: int) -> Iterator[_Place]:
        """The variables of a module that code names; in a module that it names, those too."""
        mine = {name for name in names if name in held and not isinstance(held[name], (*_CODE, type, ModuleType))}
        if mine:
            yield _variables(held, mine)
        for name in sorted(names & held.keys()):
            value = held[name]
            if isinstance(value, ModuleType):
                if not _foreign_name(value.__name__) and id(value) not in self._seen and depth < DEPTH:
                    self._seen.add(id(value))
                    yield from self._named(vars(value), names, depth + 1)
            else:
                yield from self._value(value, f"{name}.", depth + 1)

    def _class(self, kind: type, depth: int) -> Iterator[_Place]:
        self._seen.add(id(kind))
        yield _attributes(kind)
        for name, value in list(vars(kind).items()):
            if isinstance(value, (classmethod, staticmethod)):
                value = value.__func__
            yield from self._value(value.fget if isinstance(value, property) else value, f"{name}.", depth + 1)

    def _held(self, held: dict[Any, Any], owner: str, depth: int) -> Iterator[_Place]:
        yield _Place(owner, held.copy, lambda before: refill(held, before))
        for name, value in list(held.items()):
            yield from self._value(value, f"{owner}{name}.", depth + 1)

    def _container(self, held: Any, owner: str, depth: int) -> Iterator[_Place]:
        if len(held) > LONGEST:
            return
        if type(held) is dict:
            yield from self._held(held, owner, depth)
            return
        if type(held) is list:
            yield _Place(owner, lambda: dict(enumerate(held)), lambda before: refill(held, before.values()))
        else:
            yield _Place(owner, lambda: dict.fromkeys(held), lambda before: refill(held, before))
        for value in list(held):
            yield from self._value(value, owner, depth + 1)


def _items(value: Any) -> list[Any]:
    """The objects in a module's attribute that are no containers."""
    held = list(value.values() if type(value) is dict else value) if type(value) in CONTAINERS else [value]
    return [item for item in held[:LONGEST] if type(item) not in CONTAINERS]


def refill(held: Any, items: Any) -> None:
    items = list(items) if isinstance(held, list) else items
    held.clear()
    (held.extend if isinstance(held, list) else held.update)(items)


def _variables(held: dict[str, Any], names: set[str]) -> _Place:
    def write(before: dict[str, Any]) -> None:
        for name in names - before.keys():
            held.pop(name, None)
        held.update(before)

    return _Place("", lambda: {name: held[name] for name in names if name in held}, write)


def _attributes(kind: type) -> _Place:
    def read() -> dict[str, Any]:
        items = list(vars(kind).items())
        return {name: x for name, x in items if not (name.startswith("__") or isinstance(x, (*_CODE, type)))}

    def write(before: dict[str, Any]) -> None:
        now = read()
        for name in now.keys() - before.keys():
            delattr(kind, name)
        for name, x in before.items():
            if not _same(x, now.get(name, _ABSENT)):
                setattr(kind, name, x)

    return _Place(f"{kind.__name__}.", read, write)


def _cell(name: str, cell: CellType) -> _Place:
    def write(before: dict[str, Any]) -> None:
        cell.cell_contents = before[name]

    return _Place("", lambda: {name: contents_of(cell)}, write)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _foreign(what: Any) -> bool:
    return _foreign_name(getattr(what, "__module__", None) or "builtins")


def _foreign_name(name: str) -> bool:
    return name.partition(".")[0] in _FOREIGN
