"""FLOPs of a full and of a cached call, counted once, on blank arguments of the same shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipcache.blocks import quietly
from skipcache.predictors import Predictor
from skipcache.trajectory import Call, FeatureCache, zero_call

Step = Callable[[Call], Any]


def ideal_speedup(
    calls: Mapping[tuple[Hashable, bool], int], outlines: Iterable[Call], count: Callable[[Call], tuple[int, int]]
) -> float | None:
    """FLOPs of as many full calls over the FLOPs of the calls made; None before the first, or where none was counted.

    `calls` are counted by signature and by whether they were full; `outlines` has one call of each signature.
    """
    if not any(full is False for _, full in calls):
        return 1.0 if calls else None
    plain = made = 0
    for blank in outlines:
        fulls, cacheds = (calls.get((blank.signature, kind), 0) for kind in (True, False))
        try:
            full, cached = count(blank)
        except Exception:
            # The model may have changed since, or run what the counter cannot follow (another library's kernel).
            continue
        plain += full * (fulls + cacheds)
        made += full * fulls + cached * cacheds
    return plain / made if made else None


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
        if not engine.serves(call):
            features.append(None)
            return call.run(forward)
        result = engine.full(forward, call)
        features.append(result.features)
        return result.output

    def cached_step(call: Call) -> Any:
        cache, (H, D) = FeatureCache(follows), features[0]
        for step in range(predictor.depth):
            cache.record(step, H, D, predictor)
        return engine.cached(forward, call, cache.predict(predictor.depth, predictor)).output

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
