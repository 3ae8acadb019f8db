"""What modules were given and returned on one step, so that a proof can answer for them without running them.

A proof runs the glue of a forward once more. In the place of a module stands `Tape.answer`: it compares what the module
is given with what it was given on the step, and returns what it returned then. Of what goes straight from one module
into the next only the identity is known, and a tensor without values stands for it. Values are held only where the
glue reads them, which a torch function mode sees.

An answer is not sound where a module writes to what it is given, or where a tensor was written to after a module had
returned it. `unsound` says so. What a module is given is compared with a copy once it has returned. Later writes are
counted by torch; tensors that count none (inference mode) are held as copies.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from skipcache.blocks import Outline, equal_values, tensors_of, version
from skipcache.engines.between import Between, is_outline

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class Differs(RuntimeError):
    """In the proof a module is given something else than on the step that it is compared with."""


class Made:
    """A tensor that a module has returned; `kept` where its values are held, `now` as the proof hands it out."""

    def __init__(self, x: Tensor) -> None:
        self.outline, self.version, self.seen = Outline.exactly(x), version(x), weakref.ref(x)
        self.kept: Tensor | None = None
        self.copied = self.dropped = False
        self.now: Tensor | None = None

    def keep(self, x: Tensor) -> None:
        if self.kept is None and not self.dropped:
            self.copied = x.is_inference()
            self.kept = x.clone() if self.copied else x

    def drop(self) -> None:
        """Nobody is to answer for the module, so that the values need not be held."""
        self.kept, self.dropped = None, True

    def is_written(self, x: Tensor) -> bool:
        """`x`, which is this tensor, was written to since the module returned it."""
        return not equal_values(x, self.kept) if self.kept is not None and self.copied else version(x) != self.version

    def hand_out(self) -> Tensor:
        if self.kept is None:
            shape, dtype, _, stride = self.outline
            self.now = torch.empty_strided(shape, stride or (), dtype=dtype, device="meta")
        else:
            self.now = self.kept.clone() if self.copied else self.kept
        return self.now

    def is_same(self, x: Any) -> bool:
        return x is self.now or (isinstance(x, Tensor) and self.kept is not None and equal_values(x, self.kept))


@dataclass
class _Call:
    given: list[Any]
    spec: Any
    before: list[tuple[Tensor, Tensor]]  # tensors and copies of them, until the module has returned
    returned: list[Any]
    nesting: Any = None
    answered: bool = False


class Tape(Between):
    """The calls of some modules on one step, by key. On as a torch function mode in the glue between them."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[Hashable, list[_Call]] = defaultdict(list)
        self._made: dict[int, Made] = {}
        self._passing: list[Made] = []
        self.unsound: str | None = None

    # the step

    def enter(self, args: Any, kwargs: Any) -> _Call:
        """A module is called: what it is given. `leave` follows."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        for x in tensors:
            made = self._of(x)
            if made is not None:
                self._check(x, made)
        return _Call([self._of(x) or x for x in leaves], spec, [(x, x.clone()) for x in tensors], [])

    def leave(self, key: Hashable, call: _Call, output: Any, hold: bool = False) -> list[Made]:
        """It has returned. `hold`: its tensors are held, whoever reads them."""
        if not all(equal_values(*pair) for pair in call.before):
            self.unsound = f"{key} writes to what it is given"
        call.before = []
        leaves, call.nesting = pytree.tree_flatten(output)
        call.returned = [self._note(x, hold or x.is_inference()) if isinstance(x, Tensor) else x for x in leaves]
        self._calls[key].append(call)
        return [made for made in call.returned if isinstance(made, Made)]

    def pass_by(self, output: Any) -> list[Made]:
        """A module that nobody is to answer for has returned. Of the last one of these the tensors are held."""
        for made in self._passing:
            made.drop()
        self._passing = [self._note(x, hold=True) for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
        return self._passing

    def _note(self, x: Tensor, hold: bool) -> Made:
        found = self._made[id(x)] = Made(x)
        if hold:
            found.keep(x)
        return found

    def _of(self, x: Any) -> Made | None:
        found = self._made.get(id(x))
        return found if found is not None and found.seen() is x else None

    def _check(self, x: Tensor, made: Made) -> None:
        if not made.dropped and made.is_written(x):
            self.unsound = "what a module has returned was written to"

    def read(self, values: Iterable[Any]) -> None:
        """The glue reads `values`, so that those of them which modules returned are held."""
        for x in values:
            kind = type(x)
            if kind is tuple or kind is list:
                self.read(x)
            elif kind is dict:
                self.read(x.values())
            elif id(x) in self._made and (made := self._of(x)) is not None:
                self._check(x, made)
                made.keep(x)

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        attribute = name == "__get__"
        if not attribute and not is_outline(name):
            self.read((*args, *(kwargs or {}).values()))
        value = func(*args, **(kwargs or {}))
        if attribute and isinstance(value, Tensor):
            self.read(args)
        return value

    def finish(self, output: Any) -> None:
        """The step has returned `output`, and is over."""
        self.read(tensors_of(output))
        for made in (made for calls in self._calls.values() for call in calls for made in call.returned):
            if isinstance(made, Made) and made.kept is not None and not made.copied:
                self._check(made.kept, made)

    # the proof

    def rewind(self) -> None:
        """A proof begins."""
        for calls in self._calls.values():
            for call in calls:
                call.answered = False

    def answer(self, key: Hashable, args: Any, kwargs: Any) -> Any:
        """What the module returned where it was given this. Raises `Differs`."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        for call in self._calls.get(key, ()):
            if not call.answered and spec == call.spec and all(map(_is_same, call.given, leaves)):
                call.answered = True
                out = [x.hand_out() if isinstance(x, Made) else x for x in call.returned]
                return pytree.tree_unflatten(out, call.nesting)
        raise Differs(f"{key} is given something else than on the step before")


def are_written(output: Any, made: Iterable[Made]) -> bool:
    """Tensors of `output`, which a module has returned as `made`, were written to since."""
    tensors = (x for x in pytree.tree_leaves(output) if isinstance(x, Tensor))
    return any(not x.is_meta and one.is_written(x) for x, one in zip(tensors, made))


def _is_same(then: Any, now: Any) -> bool:
    if isinstance(then, Made):
        return then.is_same(now)
    if isinstance(then, Tensor):
        return then is now or (isinstance(now, Tensor) and equal_values(then, now))
    return then is now or (type(then) is type(now) and isinstance(then, _PLAIN) and then == now)
