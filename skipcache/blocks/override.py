"""What stands in for a module's forward, or for its whole call, on the instance; put on and taken off exactly.

An override is an object, not a closure: a deep copy or a pickle of the module then carries an override of its own,
bound to the copy. Offload hooks (accelerate's, diffusers') wrap a module's forward and keep the wrapped one at a
place of their own; an override of the forward stands at the innermost of these places, so that the hooks run around it
on every step, whether they came before or after it. An override of the call stands around all of that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from skipcache.blocks.attributes import CALL

T = TypeVar("T", bound="Override")

_FORWARDS = ("original_forward", "_old_forward", "forward")  # diffusers', accelerate's and the module's own
_PLACING = threading.RLock()


class Override:
    """Stands in for `module.forward`; `plain` is what it stands in for.

    `on`: it was put on and not taken off. A wrapper that came later may hold it for longer.
    `of_model`: what it adds belongs to the model, as a skip branch does.
    """

    of_model = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.previous: Callable[..., Any] | None = None
        self.on = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        previous = self.previous
        if previous is not None:
            return previous(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __get__(self, *owner: Any) -> Override:
        """It is bound already, as a bound method is; cache-dit binds what it puts back."""
        return self

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """`inspect.signature` looks here."""
        return self.previous or MethodType(type(self.module).forward, self.module)

    @property
    def __func__(self) -> Unbound:
        """accelerate wraps `forward.__func__`, as a bound method has it, and binds it to the module again."""
        return Unbound(self)

    def put_on(self) -> None:
        """Once: nothing happens to one that is on."""
        with _PLACING:
            if any(found is self for found in _overrides(self.module)):
                return
            inner = ((place, name) for place, name in _forwards(self.module) if _is_inner(place[name], self.module))
            self._stand_at(*next(inner, (self.module.__dict__, "forward")))

    def _stand_at(self, place: dict[str, Any], name: str) -> None:
        self.previous, self.on = place.get(name), True
        place[name] = self

    def take_off(self) -> None:
        """Put back what stood there, under other overrides and in what wrappers keep on the module too."""
        with _PLACING:
            self.on = False
            for place, name in _places(self.module):
                found = _override_in(place[name])
                if found is self:
                    self._put_back(place, name)
                while found is not None:
                    under = _override_in(found.previous)
                    if under is self and found is not self:
                        found.previous = self.previous
                    found = under

    def _put_back(self, place: dict[str, Any], name: str) -> None:
        if self.previous is not None:
            place[name] = self.previous
        elif place is self.module.__dict__ and name in ("forward", CALL):
            del place[name]
        else:
            place[name] = MethodType(type(self.module).forward, self.module)


class CallOverride(Override):
    """Stands in for the whole call of `module`, around its hooks and its compiled code.

    So a call that is skipped fetches no weights that FSDP or offloading keep elsewhere, and torch.compile does not look
    into the override. It stands where `nn.Module.compile` puts compiled code. torch leaves this place out of copies and
    pickles, and `compile` writes over it: whoever needs the override there calls `put_on` again.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "previous": None}  # compiled code runs the original's weights

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        previous = self.previous
        return self.module._call_impl(*args, **kwargs) if previous is None else previous(*args, **kwargs)

    def put_on(self) -> None:
        place = self.module.__dict__
        if place.get(CALL) is self:
            return
        with _PLACING:
            if all(found is not self for found in _chain(place.get(CALL))):
                self._stand_at(place, CALL)


class Unbound:
    """An override as a function of its module."""

    def __init__(self, override: Override) -> None:
        self.override = override

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.override(*args, **kwargs)


def override_of(module: nn.Module, kind: type[T]) -> T | None:
    """The override of `kind` that `module` runs under, if any."""
    return next((found for found in _overrides(module) if isinstance(found, kind)), None)


def hidden_behind(override: Override) -> str | None:
    """The name of a forward that was set on the module since, without a trace of `override` in it; None without one."""
    module = override.module
    shown = (found for place, name in _forwards(module) for found in _chain(place[name]))
    forward = module.__dict__.get("forward")
    if any(found is override for found in shown):
        return None
    while forward is not None and forward is not override:
        forward = getattr(forward, "__wrapped__", None)
    own = module.forward
    return None if forward is override else getattr(own, "__qualname__", type(own).__name__)


def check_plain(module: nn.Module, when: str) -> None:
    """Raises ValueError where `module` is accelerated. `when` completes the message "call skipcache.restore ..."."""
    if override_of(module, Override) is not None:
        raise ValueError(f"{type(module).__name__} is accelerated; call skipcache.restore {when}")


def own_forward(module: nn.Module) -> Callable[..., Any]:
    """What runs as the forward under all that is wrapped around it, as a function that takes the module first.

    That of the class, or that of another method which the instance binds in its place, as Open-Sora 2.0's does.
    """
    for place, name in _forwards(module):
        forward = place[name]
        while (override := _override_within(forward)) is not None:
            forward = override.previous
        if is_bound_to(forward, module):
            return forward.__func__
    return type(module).forward


def is_bound_to(forward: Any, module: nn.Module) -> bool:
    """`forward` is a method of `module`: of its class, or one that was bound to it by hand."""
    return isinstance(forward, MethodType) and forward.__self__ is module


def inner_forward(module: nn.Module) -> Callable[..., Any] | None:
    """What runs under the hooks that wrap `module`, and under overrides that are no part of the model."""
    found = next((place[name] for place, name in _forwards(module)), None)
    override = _override_within(found)
    while override is not None and not override.of_model:
        found = override.previous
        override = _override_within(found)
    return override or found


def is_class_forward(forward: Any, module: nn.Module) -> bool:
    """`forward` is the method of the module's class, bound to the module."""
    return is_bound_to(forward, module) and forward.__func__ is type(module).forward


def _dicts(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Where attributes of `module` are kept: diffusers' hook registry, the module itself."""
    registry = module.__dict__.get("_diffusers_hook")
    yield from (vars(ref) for ref in getattr(registry, "_fn_refs", ()))
    yield module.__dict__


def _forwards(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Where `module` keeps forwards that run, the innermost first."""
    for place in _dicts(module):
        for name in _FORWARDS:
            if place.get(name) is not None:
                yield place, name


def _places(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where `module` keeps an override, under any name: a wrapper keeps what it wraps for the day it is taken off."""
    return [(d, name) for d in _dicts(module) for name, x in list(d.items()) if _override_in(x) is not None]


def _overrides(module: nn.Module) -> Iterator[Override]:
    for place, name in _places(module):
        yield from _chain(place[name])


def _chain(forward: Any) -> Iterator[Override]:
    """The override that `forward` is, and those that stand under it."""
    found = _override_in(forward)
    while found is not None:
        yield found
        found = _override_in(found.previous)


def _override_in(forward: Any) -> Override | None:
    """The override that `forward` is, or that it was bound from."""
    if isinstance(forward, MethodType):
        forward = forward.__func__
    if isinstance(forward, Unbound):
        return forward.override
    return forward if isinstance(forward, Override) else None


def _override_within(forward: Any) -> Override | None:
    """The override that `forward` is, or that it decorates, as accelerate's `prepare` does."""
    while forward is not None and _override_in(forward) is None:
        forward = getattr(forward, "__wrapped__", None)
    return _override_in(forward)


def _is_inner(forward: Any, module: nn.Module) -> bool:
    """`forward` is a method of the module or another override, with no hook around it."""
    return _override_in(forward) is not None or is_bound_to(forward, module)
