"""What blocks were given and returned on a full step, so that a proof runs none of them again.

A proof runs the code between the blocks once more. In the place of a block stands `Answers.answer`: it compares what
the block is given with what it was given on the step, and returns what it returned then. Nothing is put around the code
between the blocks on the step itself. A tensor that went straight from one block into the next is told by identity, and
a tensor without values stands for it; values are held of all others. Where the code between the blocks reads such a
stand-in after all, the proof does not come out, and blocks must run for it.

`unsound` says why blocks must run in any case: one of them writes to what it is given, is given objects, or has a
state of its own, or a tensor was written to after it was returned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipcache.blocks import Footprint, Generators, Outside, Streams, equal_values, take_apart
from skipcache.branches import SKIPS, SkipBranches
from skipcache.engines.noted import Given, Made, ambient, before, is_same, is_simple

WRITTEN = "what a block has returned or was given was written to"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout)


class Differs(RuntimeError):
    """In the proof a block is given something else than on the step that it is compared with."""


@dataclass
class _Call:
    entered: Any  # all arguments, until the block has returned
    given: list[Any]
    spec: Any
    ambient: Hashable
    copies: list[Tensor | None]  # of the tensors among them, until then; None where nobody else reads one
    skips: dict[Hashable, Tensor]
    returned: list[Any] = field(default_factory=list)
    nesting: Any = None
    answered: bool = False


@dataclass(frozen=True)
class _Again:
    """A block returns what it was given, at this place."""

    index: int


class Answers:
    """The calls of some blocks on one step, by path.

    Args:
        modules: the blocks; `outside` is what their code can reach beside the model, as it is before the step.
        branches: skip branches that were grafted on the model: what goes into a block by them is compared too.
    """

    def __init__(
        self, modules: Iterable[nn.Module], outside: Outside, device: torch.device, branches: SkipBranches | None = None
    ) -> None:
        self._footprint, self._outside = Footprint(modules, outside.values), outside
        self._generators, self._branches = Generators(device), branches
        self.unsound: str | None = None
        self._calls: dict[str, _Call] = {}
        self._given: dict[int, Given] = {}
        self._made: dict[int, Made] = {}
        self._last: list[Made] = []
        self._returned: dict[str, Streams] = {}  # for branches
        if self._footprint.opaque:
            self._refuse(f"a block holds {self._footprint.opaque}")

    def _refuse(self, reason: str) -> None:
        """Blocks must run for the proof. Nothing is held any more."""
        self.unsound = self.unsound or reason
        for held in (self._calls, self._given, self._made, self._last, self._returned):
            held.clear()

    # the step

    def enter(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call | None:
        """The block at `path` is called. `leave` follows. None where nothing needs to be known of it."""
        if self.unsound:
            return None
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        for made in self._last:
            if any(made.seen() is x for x in leaves):
                made.kept = None  # it goes straight from block to block
        self._last = []
        given = list(map(self._note, leaves))
        if self.unsound:
            return None
        tensors = [(x, note) for x, note in zip(leaves, given) if isinstance(x, Tensor)]
        copies = [before(x, note) for x, note in tensors]
        return _Call((args, kwargs), given, spec, ambient(), copies, self._wired(path, args, kwargs))

    def _note(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            if not isinstance(x, _PLAIN):
                self._refuse(f"a block is given a {type(x).__name__}")
            return x
        if not is_simple(x):
            self._refuse(f"a block is given a {type(x).__name__} of a kind of its own")
            return x
        made, known = self._made.get(id(x)), self._given.get(id(x))
        if made is not None and made.seen() is x:
            if made.is_written(x):
                self._refuse(WRITTEN)
            return made
        if known is None or known.seen() is not x:
            known = self._given[id(x)] = Given(x)
        elif not known.is_same(x):
            self._refuse(WRITTEN)
        return known

    def leave(self, path: str, call: _Call | None, output: Any, hold: bool) -> None:
        """It has returned `output`. `hold`: its values are held in any case."""
        if call is None or self.unsound:
            return
        leaves = pytree.tree_leaves((call.entered[0], dict(call.entered[1])))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        same = len(leaves) == len(call.given) and len(tensors) == len(call.copies)
        if not (same and all(copy is None or equal_values(x, copy) for x, copy in zip(tensors, call.copies))):
            self._refuse(f"{path} writes to what it is given")
            return
        call.entered, call.copies = (), []
        returned, call.nesting = pytree.tree_flatten(output)
        call.returned = [self._taken(path, x, leaves) for x in returned]
        if self.unsound:
            return
        self._calls[path] = call
        self._last = [] if hold or self._branches else [x for x in call.returned if isinstance(x, Made)]
        self.passes(path, output)

    def _taken(self, path: str, x: Any, leaves: Sequence[Any]) -> Any:
        """What is remembered of a leaf of an output, `leaves` being those of the arguments."""
        if isinstance(x, Tensor) and is_simple(x):
            again = next((i for i, y in enumerate(leaves) if x is y), None)
            if again is not None:
                return _Again(again)
            made = self._made[id(x)] = Made(x)
            return made
        if not isinstance(x, _PLAIN):
            self._refuse(f"{path} returns a {type(x).__name__}")
        return x

    def passes(self, path: str, output: Any) -> None:
        """A block has returned, of which a branch may take something."""
        if self._branches is not None and not self.unsound:
            self._returned[path] = take_apart(output)[0]

    def finish(self) -> None:
        """The step is over."""
        if any(made.kept is not None and made.is_written(made.kept) for made in self._made.values()):
            self._refuse(WRITTEN)
        if self._branches is not None and any(self._branches.channel.copies.values()):
            self._refuse(WRITTEN)
        self._returned = {}
        drawn = self._generators.drawn()
        if drawn:
            self._refuse(f"random numbers were drawn from {drawn[0]}")
        elif self.unsound is None and (self._footprint.changed() or self._outside.changed()):
            self._refuse("a block, or what its code reads, has a state of its own")

    # the proof

    def rewind(self) -> None:
        """A proof begins."""
        self._returned = {}
        for call in self._calls.values():
            call.answered = False

    def answer(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the block at `path` returned where it was given this. Raises `Differs`."""
        kwargs = dict(kwargs)
        handed_over = kwargs.pop(SKIPS, None)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        call = self._calls.get(path)
        known = call is not None and not call.answered and spec == call.spec and ambient() == call.ambient
        if call is None or not known or not all(map(is_same, call.given, leaves)):
            raise Differs(f"{path} is given something else than on the step before")
        skips = self._wired(path, args, kwargs) if handed_over is None else handed_over
        if skips.keys() != call.skips.keys() or not all(equal_values(skips[k], x) for k, x in call.skips.items()):
            raise Differs(f"{path} is handed another skip than on the step before")
        call.answered = True
        output = pytree.tree_unflatten([_handed_out(x, leaves) for x in call.returned], call.nesting)
        self.passes(path, output)
        return output

    def _wired(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Hashable, Tensor]:
        """What a branch fuses into the block, by argument."""
        return {} if self._branches is None else self._branches.wire(path, args, kwargs, self._returned) or {}


def _handed_out(x: Any, leaves: Sequence[Any]) -> Any:
    if isinstance(x, _Again):
        return leaves[x.index]
    return x.hand_out() if isinstance(x, Made) else x
