"""A stand-in for a model's module tree, on which its forward runs while someone else answers the calls of its leaves.

Nothing of the model is touched, neither class nor instance, so that other threads may run it meanwhile, and a forward
that is traced cannot leave anything in it.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
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
        self._made: dict[int, tuple[nn.Module, nn.Module]] = {}
        self.root = self._stand_in(model, "")
        self._rebind()

    def _stand_in(self, module: nn.Module, path: str) -> nn.Module:
        if id(module) in self._made:
            return self._made[id(module)][1]
        if self._leaves is not None and path not in self._inner and path not in self._leaves:
            return module
        made = object.__new__(type(module))
        state = made.__dict__
        state.update(module.__dict__)
        self._made[id(module)] = (module, made)
        if not self._shared:
            state.update((name, _copied(value)) for name, value in state.items())
        prefix = f"{path}." if path else ""
        state["_modules"] = type(module._modules)(
            (name, child if child is None else self._stand_in(child, prefix + name))
            for name, child in module._modules.items()
        )
        state["_compiled_call_impl"] = None
        if path not in self._inner:
            state["forward"] = functools.partial(self._answer, path)
            state.update((name, OrderedDict()) for name in HOOKS)
        else:
            state.pop("forward", None)
        return made

    def _rebind(self) -> None:
        """Bound methods that a module keeps of itself or of another one must not lead back to the model."""
        for _, made in self._made.values():
            for name, value in made.__dict__.items():
                if isinstance(value, types.MethodType) and id(value.__self__) in self._made:
                    made.__dict__[name] = types.MethodType(value.__func__, self._made[id(value.__self__)][1])

    @property
    def glue(self) -> dict[str, nn.Module]:
        """The model's modules that are no leaves, by path: their own code is what a graph is made of."""
        return {path: module for module, made, path in self._walk() if path in self._inner}

    def _walk(self) -> Iterator[tuple[nn.Module, nn.Module, str]]:
        names = {id(made): path for path, made in self.root.named_modules()}
        for module, made in self._made.values():
            yield module, made, names.get(id(made), "")

    def written(self) -> list[str]:
        """The attributes that the forward has set, removed or changed on the stand-ins."""
        found = []
        for module, made, path in self._walk():
            for name in made.__dict__.keys() | module.__dict__.keys():
                if name in _OWN:
                    continue
                before, after = module.__dict__.get(name, _ABSENT), made.__dict__.get(name, _ABSENT)
                if not _alike(before, after):
                    found.append(f"{path}.{name}" if path else name)
        return found

    def hand_over(self) -> None:
        """Write what the forward has set on the stand-ins to the model, as if it had run there."""
        for module, made in self._made.values():
            for name in made.__dict__.keys() - _OWN:
                if made.__dict__[name] is not module.__dict__.get(name, _ABSENT):
                    module.__dict__[name] = made.__dict__[name]
            for name in module.__dict__.keys() - made.__dict__.keys() - _OWN:
                del module.__dict__[name]


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
