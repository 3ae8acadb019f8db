"""Another cache on the same model is refused by name, or its coming is noticed: then skipcache stands aside."""

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

import skipcache
from tests.models.pipelines import denoiser, flux, run_flux, run_wan, wan

ENGINES = ["fx", "hooks"]
STEPS = 6


def names(pipe):
    return {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": (-1, 2000),
        "spatial_attention_block_identifiers": ("blocks", "transformer_blocks"),
        "current_timestep_callback": lambda: pipe._current_timestep,
    }


CONFIGS = {
    "first block": lambda pipe: FirstBlockCacheConfig(threshold=0.9),
    "magcache": lambda pipe: MagCacheConfig(
        num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS, retention_ratio=0.1, threshold=0.5
    ),
    "taylorseer": lambda pipe: TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32
    ),
    "pyramid": lambda pipe: PyramidAttentionBroadcastConfig(**names(pipe)),
}


def of_flux():
    pipe = flux()
    pipe.transformer = denoiser("flux_dev", num_layers=3, num_single_layers=3)
    return pipe


PIPES = {"wan": (wan, run_wan), "flux": (of_flux, run_flux)}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", PIPES)
def test_diffusers_caches(name, kind):
    make, run = PIPES[name]
    pipe = make()
    plain = run(pipe, steps=STEPS)
    pipe.transformer.enable_cache(CONFIGS[kind](pipe))
    with pytest.raises(ValueError, match=r"diffusers' own cache is enabled on it; call disable_cache\(\)"):
        skipcache.accelerate(pipe, policy=skipcache.Interval(3))
    alone = run(pipe, steps=STEPS)
    pipe.transformer.disable_cache()
    for engine in ENGINES:
        skipcache.accelerate(pipe, policy=skipcache.Interval(3), engine=engine)
        cached = run(pipe, steps=STEPS)
        pipe.transformer.enable_cache(CONFIGS[kind](pipe))
        assert torch.equal(run(pipe, steps=STEPS), alone)
        assert any("another cache is on the model too" in reason for reason in skipcache.report(pipe).reasons)
        pipe.transformer.disable_cache()
        assert torch.equal(run(pipe, steps=STEPS), cached) and not torch.equal(cached, plain)
        skipcache.restore(pipe)
    assert torch.equal(run(pipe, steps=STEPS), plain)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PIPES)
def test_cache_dit(name, engine):
    """It changes the class of the pipeline, so that each test has one of its own."""
    cache_dit = pytest.importorskip("cache_dit")
    make, run = PIPES[name]
    pipe = make()
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {})
    plain = run(pipe, steps=STEPS)

    def enable():
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=2, residual_diff_threshold=0.9
        )
        cache_dit.enable_cache(pipe, cache_config=config)

    enable()
    with pytest.raises(ValueError, match=r"cache-dit or ParaAttention is enabled on it; call cache_dit.disable_cache"):
        skipcache.accelerate(pipe, policy=skipcache.Interval(3))
    alone = run(pipe, steps=STEPS)
    cache_dit.disable_cache(pipe)
    skipcache.accelerate(pipe, policy=skipcache.Interval(3), engine=engine)
    cached = run(pipe, steps=STEPS)
    enable()
    assert torch.equal(run(pipe, steps=STEPS), alone)
    assert any("cache-dit or ParaAttention" in reason for reason in skipcache.report(pipe).reasons)
    cache_dit.disable_cache(pipe)
    assert torch.equal(run(pipe, steps=STEPS), cached)
    skipcache.restore(pipe)
    assert torch.equal(run(pipe, steps=STEPS), plain)
