"""An instance-level `forward`, put on and taken off exactly.

An override is an object, not a closure: a deep copy or a pickle of the module then carries an override of its own,
bound to the copy. Offload hooks (accelerate's, diffusers') wrap a module's forward and keep the wrapped one at a
place of their own; the override stands at the innermost of these places, so that the hooks run around it on every step,
whether they came before or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T", bound="Override")


class Override:
    """Stands in for `module.forward`; `plain` is what it stands in for.

    `of_model`: what it adds belongs to the model, as a skip branch does.
    """

    of_model = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.previous: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """`inspect.signature` looks here."""
        return self.previous or MethodType(type(self.module).forward, self.module)

    def put_on(self) -> None:
        inner = ((place, name) for place, name in _places(self.module) if _is_inner(place[name], self.module))
        place, name = next(inner, (self.module.__dict__, "forward"))
        self.previous = place.get(name)
        place[name] = self

    def take_off(self) -> None:
        """Put back what stood there."""
        for place, name in _places(self.module):
            if place[name] is not self:
                continue
            if self.previous is not None:
                place[name] = self.previous
            elif place is self.module.__dict__ and name == "forward":
                del place[name]
            else:
                place[name] = MethodType(type(self.module).forward, self.module)


def override_of(module: nn.Module, kind: type[T]) -> T | None:
    """The override of `kind` that `module` runs under, if any."""
    return next((p[name] for p, name in _places(module) if isinstance(p[name], kind)), None)


def check_plain(module: nn.Module, when: str) -> None:
    """Raises ValueError where `module` is accelerated. `when` completes the message "call skipcache.restore ..."."""
    if override_of(module, Override) is not None:
        raise ValueError(f"{type(module).__name__} is accelerated; call skipcache.restore {when}")


def _places(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Where `module` may keep a forward: accelerate's `_old_forward`, diffusers' hook registry, the module itself."""
    registry = module.__dict__.get("_diffusers_hook")
    for place in (*(vars(ref) for ref in getattr(registry, "_fn_refs", ())), module.__dict__):
        for name in ("original_forward", "_old_forward", "forward"):
            if place.get(name) is not None:
                yield place, name


def inner_forward(module: nn.Module) -> Callable[..., Any] | None:
    """What runs under the hooks that wrap `module`, and under overrides that are no part of the model."""
    found = next((place[name] for place, name in _places(module)), None)
    while isinstance(found, Override) and not found.of_model:
        found = found.previous
    return found


def is_class_forward(forward: Any, module: nn.Module) -> bool:
    """`forward` is the method of the module's class, bound to the module."""
    return isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ is type(module).forward


def _is_inner(forward: Any, module: nn.Module) -> bool:
    """`forward` is the method of the module's class or another override, with no hook around it."""
    return isinstance(forward, Override) or is_class_forward(forward, module)
