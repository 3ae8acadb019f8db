"""The fx engine's graphs, to read: traced on request where hooks have served until now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from skipcache.blocks import quietly
from skipcache.engines import Engine
from skipcache.engines.fx import FxEngine, Graphs
from skipcache.predictors import Predictor
from skipcache.trajectory import Call, FeatureCache, zero_call

UNCALLED = "call the model once first, under torch.no_grad()"
OTHER = "it is accelerated with engine='hooks'"


def graphs_of(
    engines: Sequence[Engine], latest: Call | None, predictor: Predictor, forward: Callable[..., Any]
) -> Graphs | str:
    """Those of the signature that fx served last, else of `latest`, an outline; or why there are none.

    Where fx has served no call, this runs the model once, on zeros, and puts back what that leaves.
    """
    fx = next((engine for engine in engines if isinstance(engine, FxEngine)), None)
    if fx is None:
        return OTHER
    found = fx.graphs()
    if found is not None or latest is None:
        return found or UNCALLED
    call = zero_call(latest)
    device = call.sample.device
    casts = nullcontext() if call.autocast is None else torch.autocast(device.type, call.autocast)
    with torch.no_grad(), torch.inference_mode(call.inference), casts, quietly(device, fx.model):
        features = fx.full(forward, call).features
        if features is not None:  # the cached graph is that of the predictor
            cache = FeatureCache()
            cache.record(0, *features, predictor)
            fx.can_cache(call, cache.predict(1, predictor))
    return fx.graphs() or f"fx: {fx.refusal(call)}"
