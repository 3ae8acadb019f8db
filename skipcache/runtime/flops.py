"""FLOPs of a full and of a cached call, counted once, on blank arguments of the same shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from skipcache.blocks.snapshot import quietly
from skipcache.predictors.base import Predictor
from skipcache.trajectory.call import Call
from skipcache.trajectory.lanes import Lane

Step = Callable[[Call], Any]


@dataclass(frozen=True)
class Blank:
    """The outline of a tensor, which holds no memory."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device

    def zeros(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)


def blank_call(call: Call) -> Call:
    """`call` with outlines for tensors."""
    args, kwargs, sample = pytree.tree_map_only(
        Tensor, lambda x: Blank(x.shape, x.dtype, x.device), (call.args, dict(call.kwargs), call.sample)
    )
    return replace(call, args=args, kwargs=kwargs, sample=sample, conditioning=())


def zero_call(blank: Call) -> Call:
    """`blank` with zeros for its outlines."""
    args, kwargs, sample = pytree.tree_map_only(Blank, Blank.zeros, (blank.args, blank.kwargs, blank.sample))
    return replace(blank, args=args, kwargs=kwargs, sample=sample)


def count_flops(
    run: Callable[[Call, Step], Any],
    engine: Any,
    forward: Callable[..., Any],
    blank: Call,
    predictor: Predictor,
    follows: bool = False,
) -> tuple[int, int]:
    """FLOPs of the full and of the cached call outlined by `blank`, equal where it cannot be cached.

    `follows`: cached calls hand out H, as they do for a policy that reads its drift.

    `run(call, step)` calls the model with `step` in place of `forward`, so that what is wrapped around it takes part.
    Attention is counted under the MATH backend and without nn.MultiheadAttention's fast path, and nothing runs
    compiled: the counter misses all of these.
    """
    call = zero_call(blank)
    features: list[Any] = []

    def full_step(call: Call) -> Any:
        output, found = engine.full(forward, call) if engine.knows(call) else (call.run(forward), None)
        features.append(found)
        return output

    def cached_step(call: Call) -> Any:
        lane, (H, D) = Lane.of(call, follows), features[0]
        for step in range(predictor.depth):
            lane.record(step, H, D, predictor)
        return engine.cached(forward, call, lane.predict(predictor.depth, predictor))

    dtype, kind = blank.autocast, call.sample.device.type
    autocast = nullcontext() if dtype is None else torch.autocast(kind, dtype)
    with torch.no_grad(), autocast, quietly(call.sample.device, engine.model), _countable():
        with FlopCounterMode(display=False) as full:
            run(call, full_step)
        if features[0] is None:
            return full.get_total_flops(), full.get_total_flops()
        with FlopCounterMode(display=False) as cached:
            run(call, cached_step)
    return full.get_total_flops(), cached.get_total_flops()


ONE_AT_A_TIME = threading.Lock()  # the switches below are the process's: overlapping counts would leave them on


@contextmanager
def _countable() -> Iterator[None]:
    with ONE_AT_A_TIME:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
