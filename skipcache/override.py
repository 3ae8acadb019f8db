"""An instance-level `forward`, put on and taken off exactly.

An override is an object, not a closure: a deep copy or a pickle of the module then carries an override of its own,
bound to the copy. What stood in the instance before (an offload hook, say) runs inside it and is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T", bound="Override")


class Override:
    """Stands in for `module.forward`; `plain` is what it stands in for."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.previous: Callable[..., Any] | None = module.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """`inspect.signature` looks here."""
        return self.previous or type(self.module).forward.__get__(self.module)

    def put_on(self) -> None:
        self.module.__dict__["forward"] = self

    def take_off(self) -> None:
        """Put back what stood there. A wrapper that came later (accelerate's hooks) stays and calls the original."""
        if self.module.__dict__.get("_old_forward") is self:
            self.module.__dict__["_old_forward"] = self.__wrapped__
        elif self.module.__dict__.get("forward") is self:
            if self.previous is None:
                del self.module.__dict__["forward"]
            else:
                self.module.__dict__["forward"] = self.previous


def override_of(module: nn.Module, kind: type[T]) -> T | None:
    """The override of `kind` that `module` runs under, if any."""
    for name in ("forward", "_old_forward"):
        found = module.__dict__.get(name)
        if isinstance(found, kind):
            return found
    return None
