"""The state of a model that no argument shows: which weights, hooks and adapters a forward would use now.

A pass with layers skipped (skip-layer guidance), with a LoRA switched off or with other weights (autoguidance by
`functional_call`) has the sample, timestep and text of a plain pass. It must not take that pass's features.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skipcache.blocks.attributes import modules_of, tag_of
from skipcache.blocks.override import Override, is_class_forward

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_ADAPTER = ("_disable_adapters", "_active_adapter", "merged_adapters", "scaling")  # of peft's layers


class ModelState:
    """Reads the state of one model as a value. Two equal values: nothing that is looked at differs between them.

    Looked at: the modules of the tree, forwards set on instances, forward hooks, parameters and their in-place writes,
    and peft's adapters. Not looked at: buffers, which models rewrite by themselves, other attributes, parameters that
    accelerate's hooks bring for each call, and hooks of all modules, by which torch counts FLOPs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._value: Hashable = None
        self._seen: tuple[Any, ...] | None = None
        self._tags: int | None = None
        self._registered = -1  # how many hooks had been, when they were last looked for
        self._numbers = Numbers()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelState, (self._model,)

    def read(self) -> Hashable:
        """The state now. As long as nothing has changed this compares what is there with what was there."""
        if self._seen is None or not self._is_unchanged():
            with self._lock:
                self._index()
        return self._value

    def _is_unchanged(self) -> bool:
        assert self._seen is not None
        held, parameters, writes, sizes, hooks, forwards, adapters = self._seen
        return (
            self._sizes() == sizes
            and self._hook_keys() == hooks
            and self._are_held(held)
            and _writes(parameters) == writes
            and all(module.__dict__.get("forward") is forward for module, forward in forwards)
            and (not adapters or tuple(map(_shown, self._adapters)) == adapters)
        )

    def _are_held(self, held: list[Any]) -> bool:
        """The child modules and parameters are those of `held`: nobody wrote to their dicts, or all are there again."""
        tags = tag_of(*self._registries)
        if tags is not None and tags == self._tags:
            return True
        now = self._held()
        self._tags = tags if (same := len(now) == len(held) and all(map(is_, now, held))) else None
        return same

    def _held(self) -> list[Any]:
        """All child modules and parameters, in order."""
        return list(chain.from_iterable(registry.values() for registry in self._registries))

    def _sizes(self) -> int:
        """How many attributes there are: a forward may be among new ones."""
        return sum(map(len, self._dicts))

    def _hook_keys(self) -> tuple[Hashable, ...]:
        """Of all forward hooks. They are registered under numbers that count on in this process: as long as the count
        stands still, there are none but those that were there."""
        if self._registered != (now := RemovableHandle.next_id):
            self._hooked = [hooks for hooks in self._hooks if hooks]
            self._registered = now
        return tuple(chain.from_iterable(self._hooked))

    def _index(self) -> None:
        """Walk the tree, and make the value."""
        modules = modules_of(self._model)
        trees = [module._modules for module in modules if module._modules]
        # A hook of accelerate's puts other parameters on its module for each call.
        own = [module for module in modules if module._parameters and "_hf_hook" not in module.__dict__]
        self._registries: list[dict[str, Any]] = [*trees, *(module._parameters for module in own)]
        self._tags = tag_of(*self._registries)
        self._dicts = [module.__dict__ for module in modules]
        self._hooks = [module.__dict__[name] for module in modules for name in _HOOKS]
        self._registered = -1
        kinds = {kind for kind in set(map(type, modules)) if hasattr(kind, _ADAPTER[0])}
        self._adapters = [module for module in modules if type(module) in kinds]
        held = self._held()
        forwards = [(m, m.__dict__["forward"]) for m in modules if "forward" in m.__dict__]
        here = [None if _is_away(x) else x for x in held]
        adapters = tuple(map(_shown, self._adapters))
        parameters = _parameters_in(held)
        hooks = self._hook_keys()
        seen = (held, parameters, _writes(parameters), self._sizes(), hooks, forwards, adapters)
        number, foreign = self._numbers.of, ((m, _foreign(f, m)) for m, f in forwards)
        value = (
            tuple(map(number, here)),
            _writes(_parameters_in(here)),
            tuple((number(m), number(f)) for m, f in foreign if f is not None),
            hooks,
            adapters,
        )
        self._value = self._value if value == self._value else value  # the same object as long as it is equal
        self._seen = seen  # the last, since another thread may ask for the value as soon as it is there


class Numbers:
    """A number for each object. An `id` is given again once its object is gone, and these are not.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._count = 0

    def of(self, x: Any) -> int:
        """0 for None; the id of what has no weak references."""
        if x is None:
            return 0
        key, known = id(x), self._known
        found = known.get(key)
        if found is None or found[0]() is not x:
            try:
                gone = weakref.ref(x, lambda _: known.pop(key, None))
            except TypeError:
                return key
            self._count += 1
            found = known[key] = gone, self._count
        return found[1]


def _parameters_in(held: list[Any]) -> list[Tensor]:
    """Those that count writes, which inference tensors do not."""
    return [x for x in held if isinstance(x, Tensor) and not x.is_inference()]


def _writes(parameters: list[Tensor]) -> int:
    """How often they were written to in place."""
    return sum(map(attrgetter("_version"), parameters))


def _is_away(x: Any) -> bool:
    """A parameter on the meta device: sequential offloading puts another one there after each call."""
    return isinstance(x, Tensor) and x.is_meta


def _foreign(forward: Any, module: nn.Module) -> Any:
    """What stands under our own overrides, which come and go; None for the class's own forward."""
    while isinstance(forward, Override):
        forward = forward.previous
    return None if is_class_forward(forward, module) else forward


def _shown(module: nn.Module) -> Hashable:
    return tuple(repr(getattr(module, name, None)) for name in _ADAPTER)
