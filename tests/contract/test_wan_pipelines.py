"""Wan's other pipelines: two experts with an image, a timestep for each token, controls, and one expert alone."""

import contextlib

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanVACEPipeline,
)

import skipcache
from tests.models.devices import as_on_device
from tests.models.pipelines import denoiser, quiet, randn

pytestmark = pytest.mark.thorough

STEPS = 7


def parts(**given):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {"tokenizer": None, "text_encoder": None, "vae": vae.eval(), "scheduler": scheduler, **given}


def experts(name, **config):
    return {
        "transformer": denoiser(name, num_layers=4, **config),
        "transformer_2": denoiser(name, num_layers=4, seed=1, **config),
        "boundary_ratio": 0.9,
    }


def picture(seed):
    return PIL.Image.fromarray(np.random.RandomState(seed).randint(0, 255, (64, 64, 3), dtype=np.uint8))


def run(pipe, seed=0, **given):
    width = (pipe.transformer or pipe.transformer_2).config.text_dim
    return pipe(
        prompt_embeds=randn(1, 6, width, seed=1),
        negative_prompt_embeds=randn(1, 6, width, seed=2),
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        height=64,
        width=64,
        num_frames=5,
        **given,
    ).frames


def controls(seed):
    return {
        "video": [picture(seed + i) for i in range(5)],
        "mask": [PIL.Image.new("L", (64, 64), 255)] * 5,
        "reference_images": [picture(90 + seed)],
    }


# By kind: the pipeline, what differs in a second run, and the full steps of each expert.
KINDS = {
    "image, two experts": (
        lambda: WanImageToVideoPipeline(**parts(**experts("wan", in_channels=12))),
        [lambda: {"image": picture(0)}, lambda: {"image": picture(0), "last_image": picture(5)}],
        {"transformer": (0,), "transformer_2": (0, 3)},
    ),
    "image, a time for each token": (
        lambda: WanImageToVideoPipeline(**parts(transformer=denoiser("wan", num_layers=4), expand_timesteps=True)),
        [lambda: {"image": picture(0)}, lambda: {"image": picture(1)}],
        {"transformer": (0, 3, 6)},
    ),
    "a time for each token": (
        lambda: WanPipeline(**parts(transformer=denoiser("wan", num_layers=4), expand_timesteps=True)),
        [dict, dict],
        {"transformer": (0, 3, 6)},
    ),
    "controls, two experts": (
        lambda: WanVACEPipeline(**parts(**experts("wan_vace", vace_in_channels=4 * 2 + 64))),
        [lambda: controls(0), lambda: controls(20)],
        {"transformer": (0,), "transformer_2": (0, 3)},
    ),
    "one expert alone": (
        lambda: WanPipeline(**parts(**{**experts("wan"), "transformer": None, "boundary_ratio": 1.0})),
        [dict, dict],
        {"transformer_2": (0, 3, 6)},
    ),
}


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_runs_in_a_row(kind, on_device):
    make, runs, full_at = KINDS[kind]
    plain, outputs = run(quiet(make()), **runs[0]()), []
    for engine in ["fx", "hooks"]:
        pipe = skipcache.accelerate(quiet(make()), interval=1, engine=engine)
        assert torch.equal(run(pipe, **runs[0]()), plain)
        skipcache.restore(pipe)
        skipcache.accelerate(pipe, policy=skipcache.Interval(3), engine=engine)
        with as_on_device() if on_device else contextlib.nullcontext():
            both = [run(pipe, **given()) for given in runs]
            reports = skipcache.report(pipe)
            reports = reports if isinstance(reports, dict) else {next(iter(full_at)): reports}
            skipcache.reset(pipe)
            assert torch.equal(run(pipe, **runs[1]()), both[1]), "as if it were the first"
        assert {name: report.full_at for name, report in reports.items()} == full_at
        assert all(report.reasons == () for report in reports.values())
        outputs.append(torch.stack(both))
    assert torch.equal(*outputs) and not torch.equal(outputs[0][0], plain)
