"""A forward under its decorators: run the decorators, with another function in the place of the innermost one.

A decorator acts on the model (diffusers' `apply_lora_scale` scales its LoRA layers) or on the thread. It must do so on
every call, so it stays outside of the graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from skipcache.blocks import contents_of

Function = Callable[..., Any]


def innermost(function: Function) -> Function:
    """The innermost function: follows `__wrapped__` as long as the wrapper's closure holds the wrapped function."""
    inner = getattr(function, "__wrapped__", None)
    return function if inner is None or _cell(function, inner) is None else innermost(inner)


def rewrapped(function: Function, step: Function) -> Function:
    """`function` with all its decorators, calling `step` in place of `innermost(function)`."""
    inner = getattr(function, "__wrapped__", None)
    index = None if inner is None else _cell(function, inner)
    if index is None or inner is None:
        return step
    assert isinstance(function, FunctionType) and function.__closure__ is not None
    cells = list(function.__closure__)
    cells[index] = CellType(rewrapped(inner, step))
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells))
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _cell(function: Function, inner: Function) -> int | None:
    """Which of `function`'s closure cells holds `inner`."""
    cells = function.__closure__ or () if isinstance(function, FunctionType) else ()
    return next((i for i, cell in enumerate(cells) if contents_of(cell) is inner), None)
