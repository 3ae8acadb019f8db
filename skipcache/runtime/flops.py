"""FLOPs of a full and of a cached call, counted once per signature on a copy of the model without weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from skipcache.blocks import META, Unlike, Weightless, eagerly, quietly, weightless
from skipcache.engines import Recent
from skipcache.runtime.counters import Counters
from skipcache.trajectory import Call, zero_call

MAX_KNOWN = 16
MAX_COUNTED = 4  # signatures that one report counts: those with the most calls
COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional")


class Rehearsing(Protocol):
    """An engine, as far as counting needs it."""

    def rehearsal(self, copy: nn.Module, call: Call) -> Iterator[Callable[[], Any]]:
        """A full and a cached step of a call on a copy of the model."""


class Uncounted(RuntimeError):
    """FLOPs of a call cannot be counted; says why."""


class Costs:
    """FLOPs of one model's full and cached calls by signature. Each is counted once, also where that fails."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._known: Recent[tuple[int, int] | Uncounted] = Recent(MAX_KNOWN)

    def of(self, engine: Rehearsing | None, blank: Call) -> tuple[int, int]:
        """Raises `Uncounted`."""
        found = self._known.get(blank.signature)
        if found is None:
            found = _tried(self.model, engine, blank)
            self._known.put(blank.signature, found)
        if isinstance(found, Uncounted):
            raise found
        return found


def _tried(model: nn.Module, engine: Rehearsing | None, blank: Call) -> tuple[int, int] | Uncounted:
    try:
        return count_flops(model, engine, blank)
    except Unlike as error:
        return Uncounted(str(error))
    except Exception as error:  # a forward may do anything on tensors without values
        said = str(error).strip().splitlines() or [""]
        return Uncounted(f"on a copy without weights its forward raises {type(error).__name__}: {said[0][:120]}")


def speedup_of(
    counters: Counters, outlines: Iterable[Call], count: Callable[[Call], tuple[int, int]] | None
) -> tuple[float | None, list[str]]:
    """The ideal one: by FLOPs, or by blocks, and then why. Without `count` by blocks, as was asked for."""
    if count is None:
        total = counters.blocks_run + counters.blocks_saved
        return (total / counters.blocks_run if counters.blocks_run else None), []
    try:
        return ideal_speedup(counters.calls, outlines, count), []
    except Uncounted as error:
        run, saved = counters.blocks_run, counters.blocks_saved
        why = f"the ideal speedup is that of blocks, since FLOPs cannot be counted: {error}"
        return (run + saved) / run, [why]


def ideal_speedup(
    calls: Mapping[tuple[Hashable, bool], int], outlines: Iterable[Call], count: Callable[[Call], tuple[int, int]]
) -> float | None:
    """FLOPs of as many full calls over the FLOPs of the calls made; None before the first.

    `calls` are counted by signature and by whether they were full; `outlines` has one call of each signature. Of many
    signatures those count that were called most. Raises what `count` raises.
    """
    if not any(full is False for _, full in calls):
        return 1.0 if calls else None
    plain = made = 0
    made_of = lambda blank: [calls.get((blank.signature, kind), 0) for kind in (True, False)]  # noqa: E731
    for blank in sorted(outlines, key=lambda blank: -sum(made_of(blank)))[:MAX_COUNTED]:
        fulls, cacheds = made_of(blank)
        full, cached = count(blank)
        plain += full * (fulls + cacheds)
        made += full * fulls + cached * cacheds
    return plain / made if made else None


def count_flops(model: nn.Module, engine: Rehearsing | None, blank: Call) -> tuple[int, int]:
    """FLOPs of the full and of the cached call outlined by `blank`; equal without an engine that serves it.

    The model is not run. A copy of it runs on the meta device, where attention has only its MATH form, which is the
    one that can be counted. Raises `Unlike`, or whatever a forward raises that reads values, where no copy can run.
    """
    if any(map(callable, pytree.tree_leaves((blank.args, dict(blank.kwargs))))):
        raise Unlike("an argument is a function, which might act on more than the copy")
    with eagerly(), torch.no_grad():
        copy, args, kwargs = weightless(model, blank.args, dict(blank.kwargs))
        with quietly(torch.device(META), copy), torch.device(META):
            return _rehearsed(copy, engine, replace(blank, args=args, kwargs=kwargs))


def _rehearsed(copy: nn.Module, engine: Rehearsing | None, blank: Call) -> tuple[int, int]:
    counts = []
    with _Counter() as counter, Weightless():
        call = zero_call(blank)
        for step in (lambda: call.run(copy.forward),) if engine is None else engine.rehearsal(copy, call):
            before = counter.total
            step()
            counts.append(counter.total - before)
    return counts[0], counts[-1]


class _Counter(TorchDispatchMode):
    """Counts as torch's FlopCounterMode does, but for this thread alone: that one hooks all modules of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in COLLECTIVES:
            raise Unlike("its forward talks to other processes")
        count = flop_registry.get(func._overloadpacket)
        if count is None and func.namespace != "prim":
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        self.total += 0 if count is None else count(*args, **kwargs, out_val=output)
        return output
