"""A torch function mode that is on in the code between the blocks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_not

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

# These look at a tensor's outline and not at its values.
_ASKED = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device"}
)
_TESTED = frozenset(
    {"is_contiguous", "is_floating_point", "is_complex", "is_inference", "is_same_size", "type", "__len__"}
)
_LIKE = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"}
)
_OUTLINES = _ASKED | _TESTED | _LIKE


def is_outline(name: str) -> bool:
    """The torch function of this name looks at a tensor's outline and not at its values."""
    return name in _OUTLINES


class Between(TorchFunctionMode):
    """On from `resume` to `pause`, until it is over. Modes are a stack, on which the forward may put its own."""

    _on = _over = False

    # This happens around each block, so that torch's own calls, which are cheap, take the place of `with`.

    def resume(self) -> None:
        if not (self._on or self._over):
            torch._C._push_on_torch_function_stack(self)
            self._on = True

    def pause(self) -> None:
        if self._on:
            height = torch._C._len_torch_function_stack()
            if height and torch._C._get_function_stack_at(height - 1) is self:
                torch._C._pop_torch_function_stack()
                self._on = False
            else:
                self._on = self in _get_current_function_mode_stack()


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
