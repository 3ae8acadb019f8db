"""One process that times calls of one model, in turns with others. It runs by itself, in any environment that has
skipcache and diffusers: it imports nothing else of this package, so that older versions can be timed too.

It reads lines of JSON, {"way": ..., "runs": n}, and answers each with {kind of call: milliseconds of this thread}. A
plain run goes before each run that is accelerated, so that the two are of one moment.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from statistics import median
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

import skipcache

BLOCKS, HEADS, HEAD_WIDTH = 28, 2, 16
STEPS, INTERVAL = 30, 3
WAYS: dict[str, dict[str, Any]] = {  # ways to run -> the settings of `accelerate`
    "interval=1": {"policy": skipcache.Interval(1)},
    **{
        f"{engine}, keep={keep}": {"policy": skipcache.Interval(INTERVAL), "keep": keep, "engine": engine}
        for engine in ("hooks", "fx")
        for keep in (0, 1)
    },
}


def make_model(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=4,
        out_channels=4,
        num_layers=max(1, blocks),
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_type="ada_norm_zero",
    ).eval()
    if not blocks:
        first: Any = model.get_submodule("transformer_blocks.0")
        first.forward = lambda x, **_: x  # the output head asks this block for its embedding
    return model


def run(model: nn.Module) -> list[float]:
    """Milliseconds of this thread for each call of one run."""
    x, labels, times = torch.ones(2, 4, 8, 8), torch.tensor([1, 2]), []
    for step in range(STEPS):
        t = torch.full((2,), 990 - 33 * step)
        start = time.thread_time()
        e: Tensor = model(x, timestep=t, class_labels=labels).sample
        times.append(1e3 * (time.thread_time() - start))
        x = 0.98 * x - 0.05 * e
    return times


def measured(way: str, model: nn.Module, runs: int) -> dict[str, float]:
    """Medians over the calls of some runs; of the first call, over the runs, each on a model accelerated anew."""
    if way not in WAYS:
        run(model)
        return {"call": median(t for _ in range(runs) for t in run(model))}
    plain: list[float] = []
    times, firsts = [], []
    for _ in range(runs):
        plain += run(model)
        with skipcache.accelerated(model, **WAYS[way]):
            firsts.append(run(model)[0])
            times.append(run(model))
    if way == "interval=1":
        return {"plain": median(plain), "call": median(t for one in times for t in one)}
    full = [t for one in times for t in one[INTERVAL::INTERVAL]]
    cached = [t for one in times for i, t in enumerate(one) if i % INTERVAL]
    means = [sum(one) / STEPS for one in times]
    kinds = {"first": firsts, "full": full, "cached": cached, "mean": means}
    return {"plain": median(plain), **{kind: median(found) for kind, found in kinds.items()}}


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models = dict.fromkeys(WAYS, make_model(BLOCKS))
    models.update({f"floor, keep={keep}": make_model(2 * keep) for keep in (0, 1)})
    print(json.dumps({"version": skipcache.__version__, "ways": list(models)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(measured(asked["way"], models[asked["way"]], asked["runs"])), flush=True)


if __name__ == "__main__":
    main()
