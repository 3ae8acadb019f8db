"""FLOPs of a full and of a cached call, counted once, on blank arguments of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from skipcache.call import Call
from skipcache.predictor import Hold, Prediction
from skipcache.verify import quietly


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


def count_flops(forward: Callable[..., Any], engine: Any, blank: Call) -> tuple[int, int]:
    """FLOPs of the full and of the cached call outlined by `blank`, equal where it cannot be cached.

    Attention is counted under the MATH backend and without nn.MultiheadAttention's fast path: the counter misses both.
    """
    args, kwargs, sample = pytree.tree_map_only(Blank, Blank.zeros, (blank.args, blank.kwargs, blank.sample))
    call = replace(blank, args=args, kwargs=kwargs, sample=sample)
    with torch.no_grad(), quietly(sample.device), _countable():
        with FlopCounterMode(display=False) as full:
            features = engine.full(forward, call)[1] if engine.knows(call) else forward(*args, **kwargs) and None
        if features is None:
            return full.get_total_flops(), full.get_total_flops()
        with FlopCounterMode(display=False) as cached:
            engine.cached(forward, call, Prediction(Hold(), [features[1]], (), residual=False))
    return full.get_total_flops(), cached.get_total_flops()


@contextmanager
def _countable() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
