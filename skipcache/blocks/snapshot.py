"""What a run of a model may leave behind: noted before it, and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from skipcache.blocks.attributes import NOT_OWN, modules_of, tag_of
from skipcache.blocks.generators import Generators
from skipcache.blocks.outside import CONTAINERS, Outside, refill


@contextmanager
def quietly(device: torch.device, model: nn.Module, outside: Outside | None = None) -> Iterator[Snapshot]:
    """A trial run: it takes no random numbers from the run it is part of, and what it writes is put back.

    `outside` was found before, and nothing there has changed since; None where that is not known.
    """
    before = Snapshot(device, model, outside)
    try:
        yield before
    finally:
        before.put_back()


class Snapshot:
    """What a run of `model` may leave behind, as it is now: generators, attributes, buffers, what lies `outside`."""

    def __init__(self, device: torch.device, model: nn.Module, outside: Outside | None = None) -> None:
        self._generators = Generators(device)
        self.outside = Outside(modules_of(model)) if outside is None else outside
        modules = self.outside.modules
        self._attributes, self._buffers = [], []
        for module, (tag_then, containers) in zip(modules, self.outside.own):
            held = module.__dict__
            tag = tag_of(held)
            if tag is None or tag != tag_then:
                containers = [held[name] for name in held.keys() - NOT_OWN if type(held[name]) in CONTAINERS]
            self._attributes.append((held, tag, held.copy(), [(value, value.copy()) for value in containers]))
        for x in [x for module in modules if module._buffers for x in module._buffers.values()]:
            if x is not None and not x.is_inference():
                self._buffers.append((x, x._version, x.detach().clone()))

    def put_back(self) -> None:
        self.outside.put_back()
        for held, tag, before, copies in self._attributes:
            if tag is None or tag != tag_of(held):
                own = {name: before[name] for name in before.keys() - NOT_OWN}
                for name in held.keys() - own.keys() - NOT_OWN:
                    del held[name]
                held.update(own)
            for value, items in copies:
                refill(value, items)
        for x, version, values in self._buffers:
            if x._version != version:
                with torch.no_grad():
                    x.copy_(values)
        self._generators.put_back()
