"""Torch function modes: a stack, on which a forward may put its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_not

from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode


@contextmanager
def same_modes() -> Iterator[None]:
    """Torch function modes are afterwards what they were before, also where the forward has closed another one's."""
    before = _get_current_function_mode_stack()
    try:
        yield
    finally:
        now = _get_current_function_mode_stack()
        if len(now) != len(before) or any(map(is_not, now, before)):
            for _ in now:
                _pop_mode()
            for mode in before:
                _push_mode(mode)
