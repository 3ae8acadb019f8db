"""diffusers' guiders in a modular pipeline: a pass through perturbed blocks neither gives nor takes features."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler, guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep

import skipcache
from tests.models.pipelines import denoiser, randn
from tests.models.reuse import count, watched, wrong

pytestmark = pytest.mark.thorough

ENGINES = ["fx", "hooks"]
STEPS, DEPTH = 7, 6


def layers(*indices, **skipped):
    return LayerSkipConfig(indices=list(indices or (2, 3)), fqn="blocks", **skipped)


def skip_layer(config=None, stop=1.0):
    window = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": stop}
    return guiders.SkipLayerGuidance(4.0, skip_layer_guidance_scale=2.0, skip_layer_config=config or layers(), **window)


def smoothed_energy():
    config = SmoothedEnergyGuidanceConfig(indices=[2, 3], fqn="blocks")
    return guiders.SmoothedEnergyGuidance(
        4.0, seg_guidance_scale=2.0, seg_guidance_start=0.0, seg_guidance_stop=1.0, seg_guidance_config=config
    )


def auto():
    return guiders.AutoGuidance(4.0, auto_guidance_config=layers(dropout=1.0))


# of each guider, how many passes of a step are made by the whole model
GUIDERS = {
    "cfg": (lambda: guiders.ClassifierFreeGuidance(4.0), 2),
    "cfg zero*": (lambda: guiders.ClassifierFreeZeroStarGuidance(4.0), 2),
    "apg": (lambda: guiders.AdaptiveProjectedGuidance(4.0), 2),
    "tangential": (lambda: guiders.TangentialClassifierFreeGuidance(4.0), 2),
    "skip-layer": (skip_layer, 2),
    "smoothed energy": (smoothed_energy, 2),
    "auto": (auto, 1),
}


def pipeline(guider):
    pipe = WanCoreDenoiseStep().init_pipeline()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe.update_components(transformer=denoiser("wan", num_layers=DEPTH), scheduler=scheduler, guider=guider)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, steps=STEPS):
    config = pipe.transformer.config
    return pipe(
        prompt_embeds=randn(1, 6, config.text_dim, seed=1),
        negative_prompt_embeds=randn(1, 6, config.text_dim, seed=2),
        num_inference_steps=steps,
        height=64,
        width=64,
        num_frames=5,
        latents=randn(1, config.in_channels, 3, 8, 8),
        output="latents",
    )


def accelerated(guider, engine, interval=3):
    return skipcache.accelerate(pipeline(guider), policy=skipcache.Interval(interval), engine=engine)


def under_way(pipe):
    """The name that the guider has for the pass that is under way."""
    return pipe.guider._input_predictions[pipe.guider._count_prepared - 1]


@pytest.mark.parametrize("kind", GUIDERS)
def test_no_pass_takes_another_one_s_features(kind):
    make, lanes = GUIDERS[kind]
    plain, outputs = run(pipeline(make())), []
    for engine in ENGINES:
        assert torch.equal(run(accelerated(make(), engine, interval=1)), plain)
        pipe = accelerated(make(), engine)
        with watched(lambda pipe=pipe: under_way(pipe)) as log:
            outputs.append(run(pipe))
        assert not wrong(log)
        assert count(log, "cached") == lanes * 4, "two cached steps after each of two full ones"
        assert skipcache.report(pipe).blocks_saved == lanes * 4 * (DEPTH - 2)
        assert bool(skipcache.report(pipe).reasons) == (count(log, "cached") < len(log) * 4 / STEPS)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("skipped", [(0,), (4,), (1, 2, 3, 4)], ids=str)
def test_skipped_layers_at_the_border_of_the_stack(skipped):
    """The first block, the last deep one and all deep ones; half-way the guider stops to skip."""

    def make():
        return skip_layer(layers(*skipped), stop=0.5)

    plain, outputs = run(pipeline(make()), 4), []
    for engine in ENGINES:
        assert torch.equal(run(accelerated(make(), engine, interval=1), 4), plain)
        outputs.append(run(pipe := accelerated(make(), engine), 4))
        assert skipcache.report(pipe).cached_steps == 2
    assert torch.equal(*outputs)
