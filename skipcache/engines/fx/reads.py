"""What a forward's own Python could read beside its arguments: globals, attributes of classes, modules and closures.

A graph holds all of it for constant. The code that runs while the forward is traced is noted, frame by frame. What its
names stand for outside of it is compared on every call (`Guard`). Torch's and Python's own code is trusted.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from skipcache.blocks import contents_of

Place = tuple[Mapping[str, Any], str]

_TRUSTED = tuple(os.path.dirname(f) + os.sep for f in (torch.__file__, os.path.dirname(os.path.dirname(__file__))))
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_PACKAGES = "site-packages"
_FOREIGN = frozenset({"torch", "numpy", "skipcache"}) | sys.stdlib_module_names


class Reads:
    """The code that runs under it on this thread, as a context manager, with the globals that it runs with."""

    def __init__(self) -> None:
        self._ran: dict[types.CodeType, dict[str, Any]] = {}

    def __enter__(self) -> Reads:
        self._before, self._collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # its callbacks are Python code too, and would seem to be called by the forward
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(self._before)
        if self._collects:
            gc.enable()

    def _enter(self, frame: types.FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code not in self._ran and not _is_trusted(code.co_filename, frame.f_globals.get("__name__", "")):
            self._ran[code] = frame.f_globals

    @property
    def names(self) -> frozenset[str]:
        """All names in that code, and all strings that may be names, as `getattr(self, "scale", 1)` has them."""
        return frozenset(name for code in self._ran for name in _names(code))

    def places(self) -> list[Place]:
        """Where the names of that code are looked up: in its globals, and in the modules and classes among these."""
        places = list(self._by_name())
        return [*places, *self._closures(places)]

    def _by_name(self) -> Iterator[Place]:
        names, seen = self.names, set[int]()
        for code, held in self._ran.items():
            for name in _names(code):
                if name in held:
                    yield held, name
                    yield from _inside(held[name], names, seen)
                elif name in sys.modules:  # imported within the function
                    yield from _inside(sys.modules[name], names, seen)

    def _closures(self, places: list[Place]) -> Iterator[Place]:
        """What functions keep of the function that made them, unless they were made in this very forward."""
        made_here = {const for code in self._ran for const in code.co_consts if isinstance(const, types.CodeType)}
        kept = {code: held for code, held in self._ran.items() if code.co_freevars and code not in made_here}
        if not kept:
            return
        found = _Functions()
        for held, name in places:
            found.look_at(held.get(name))
        found.look_at([_named(held, getattr(code, "co_qualname", "")) for code, held in kept.items()])
        # To search all objects of the process takes longer than many a trace.
        probe = next(iter(kept)).replace(co_name="probe")
        ours = _references({probe: {}})[0]
        counts = zip(kept.items(), _references(kept))
        missed = [code for (code, held), count in counts if count - ours != found.references(code, held)]
        for function in gc.get_referrers(*missed) if missed else ():
            found.look_at(function)
        for function in found.functions.values():
            if function.__code__ in kept and function.__closure__:
                cells = Cells(function.__code__.co_freevars, function.__closure__)
                yield from ((cells, name) for name in cells)


class _Functions:
    """Functions that can be reached from what was looked at: by wrappers and by closures."""

    def __init__(self) -> None:
        self.functions: dict[int, types.FunctionType] = {}

    def look_at(self, value: Any) -> None:
        ahead = [value]
        while ahead:
            value = ahead.pop()
            if isinstance(value, list):
                ahead.extend(value)
            elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
                ahead.append(value.__func__)
            elif isinstance(value, property):
                ahead.append(value.fget)
            elif isinstance(value, functools.partial):
                ahead.append(value.func)
            elif isinstance(value, types.FunctionType) and id(value) not in self.functions:
                self.functions[id(value)] = value
                ahead.extend(contents for cell in value.__closure__ or () if callable(contents := contents_of(cell)))

    def references(self, code: types.CodeType, held: Mapping[str, Any]) -> int:
        """How often those that were found, and the function whose code makes them, refer to `code`; -1 for none."""
        maker = _named(held, getattr(code, "co_qualname", "").rpartition(".<locals>.")[0])
        consts = maker.__code__.co_consts if isinstance(maker, types.FunctionType) else ()
        known = sum(function.__code__ is code for function in self.functions.values())
        return known + sum(const is code for const in consts) if known else -1


def _references(codes: Mapping[types.CodeType, Any]) -> list[int]:
    """How many references there are to each; a variable or a dict of the caller is one of them."""
    return [sys.getrefcount(code) for code in codes]


def _named(held: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path of names in a module, as classes keep it; None where nothing does."""
    names = path.split(".")
    value = held.get(names[0])
    for name in names[1:]:
        value = vars(value).get(name) if isinstance(value, type) else None
    return value


class Cells(dict[str, types.CellType]):
    """A closure, read by name as it is now."""

    def __init__(self, names: Iterable[str], cells: Iterable[types.CellType]) -> None:
        super().__init__(zip(names, cells))

    def __getitem__(self, name: str) -> Any:
        return contents_of(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from (const for const in code.co_consts if isinstance(const, str) and const.isidentifier())


def class_places(kind: type, names: frozenset[str]) -> Iterator[Place]:
    """The attributes of a class and of its bases that `names` may read; torch's own classes are trusted."""
    for base in kind.__mro__:
        if not is_foreign(base.__module__):
            held = vars(base)
            yield from ((held, name) for name in names & held.keys())


def _inside(value: Any, names: frozenset[str], seen: set[int]) -> Iterator[Place]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.ModuleType) and not is_foreign(value.__name__):
        held = vars(value)
        for name in names & held.keys():
            yield held, name
            yield from _inside(held[name], names, seen)
    elif isinstance(value, type):
        yield from class_places(value, names)


def is_foreign(module: str) -> bool:
    """The name of one of torch's modules, or of Python's own."""
    return module.partition(".")[0] in _FOREIGN


def _is_trusted(file: str, module: str) -> bool:
    if file == "<string>":  # made by a program, as the methods of dataclasses are
        return is_foreign(module)
    return file.startswith(("<frozen", *_TRUSTED)) or (file.startswith(_STDLIB) and _PACKAGES not in file)
