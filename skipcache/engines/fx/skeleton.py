"""A stand-in for a model's module tree, on which its forward runs while someone else answers the calls of its leaves.

Nothing of the model is touched, neither class nor instance, so that other threads may run it meanwhile, and a forward
that is traced cannot leave anything in it.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from skipcache.blocks import HOOKS, WRAPPERS

Answer = Callable[..., Any]

_OWN = WRAPPERS | HOOKS | {"_modules"}  # what a stand-in has of its own


class Skeleton:
    """Stand-ins for all modules of `model`: same classes, same attributes, same parameters.

    A leaf is a block, or any module that contains no block: its call goes to `answer(path, *args, **kwargs)`. All other
    modules run their own forward, on stand-ins. With `shared=False` what a forward writes stays in the stand-ins.
    `leaves` are the only ones that are answered for; None stands for all.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Collection[str],
        answer: Answer,
        shared: bool = True,
        leaves: Collection[str] | None = None,
    ) -> None:
        self._answer, self._shared, self._leaves = answer, shared, leaves
        self._inner = {path.rpartition(".")[0] for path in blocks}
        self._inner |= {path[:i] for path in self._inner for i, c in enumerate(path) if c == "."} | {""}
        self._made: dict[int, tuple[nn.Module, nn.Module, str]] = {}
        self._model, self._bound = model, False
        self.root = self._stand_in(model, "")
        self._bound = True
        for _, made, _ in list(self._made.values()):
            self._rebind(made)

    def _stand_in(self, module: nn.Module, path: str) -> nn.Module:
        if id(module) in self._made:
            return self._made[id(module)][1]
        if self._leaves is not None and path not in self._inner and path not in self._leaves:
            return module
        made = object.__new__(type(module))
        state = made.__dict__
        state.update(module.__dict__)
        self._made[id(module)] = (module, made, path)
        if not self._shared:
            state.update((name, _copied(value)) for name, value in state.items() if name not in _OWN)
        inner = path in self._inner
        prefix = f"{path}." if path else ""
        children = _Children(module._modules, self, prefix) if module._modules else {}
        # Within a leaf they are made when they are asked for, which glue seldom does.
        state["_modules"] = type(module._modules)(children.items()) if inner else children
        state["_compiled_call_impl"] = None
        if not inner:
            state["forward"] = functools.partial(self._answer, path)
            state.update((name, OrderedDict()) for name in HOOKS)
        else:
            state.pop("forward", None)
        if self._bound:
            self._rebind(made)
        return made

    def _rebind(self, made: nn.Module) -> None:
        """Bound methods that a module keeps of itself or of another one must not lead back to the model."""
        for name, value in made.__dict__.items():
            if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
                made.__dict__[name] = types.MethodType(value.__func__, self._known(value.__self__))

    def _known(self, module: nn.Module) -> nn.Module:
        """The stand-in for `module`; itself where it is no part of the model."""
        if id(module) in self._made:
            return self._made[id(module)][1]
        paths = (path for path, other in self._model.named_modules() if other is module)
        path = next(paths, None)
        return module if path is None else self._stand_in(module, path)

    @property
    def glue(self) -> dict[str, nn.Module]:
        """The model's modules that are no leaves, by path: their own code is what a graph is made of."""
        return {path: module for module, _, path in self._made.values() if path in self._inner}

    def written(self) -> list[str]:
        """The attributes that the forward has set, removed or changed on the stand-ins."""
        found = []
        for module, made, path in self._made.values():
            for name in made.__dict__.keys() | module.__dict__.keys():
                if name in _OWN:
                    continue
                before, after = module.__dict__.get(name, _ABSENT), made.__dict__.get(name, _ABSENT)
                if not _alike(before, after):
                    found.append(f"{path}.{name}" if path else name)
        return found

    def hand_over(self) -> None:
        """Write what the forward has set on the stand-ins to the model, as if it had run there."""
        for module, made, _ in self._made.values():
            for name in made.__dict__.keys() - _OWN:
                if made.__dict__[name] is not module.__dict__.get(name, _ABSENT):
                    module.__dict__[name] = made.__dict__[name]
            for name in module.__dict__.keys() - made.__dict__.keys() - _OWN:
                del module.__dict__[name]


class _Children(dict[str, nn.Module | None]):
    """The children of a stand-in, each made when it is asked for. They do not keep the skeleton, which keeps them."""

    def __init__(self, children: dict[str, nn.Module | None], skeleton: Skeleton, prefix: str) -> None:
        super().__init__(children)
        self._skeleton, self._prefix = weakref.ref(skeleton), prefix

    def __getitem__(self, name: str) -> nn.Module | None:
        child = super().__getitem__(name)
        skeleton = self._skeleton()
        assert skeleton is not None, "whoever runs on the stand-ins keeps the skeleton"
        return child if child is None else skeleton._stand_in(child, self._prefix + name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if super().__contains__(name) else default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


_ABSENT = object()


def _copied(value: Any) -> Any:
    """Containers that a forward might write to, all the way down. What is in them is shared."""
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copied(item)) for key, item in value.items())
    return value.copy() if type(value) is set else value


def _alike(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, types.MethodType):
        return before.__func__ is after.__func__
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_alike(before[k], after[k]) for k in before)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(_alike, before, after))
    return isinstance(before, (set, int, float, str, bool)) and before == after
