"""Stand-ins for released pipelines: the same classes with tiny random parts, by the address that the docs load."""

from functools import partial

import pytest
import torch
from diffusers import (
    AutoencoderOobleck,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    StableAudioPipeline,
)
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

from tests.models import pipelines
from tests.models.pipelines import denoiser, quiet, randn

TOKENS = 6


def texts(pipe, width, names=("prompt_embeds", "negative_prompt_embeds")):
    """Embeddings in the place of a text encoder's."""
    return {name: randn(1, TOKENS, width, seed=seed) for seed, name in enumerate(names)}


def square(pipe):
    side = getattr(pipe.transformer.config, "sample_size", 8) * pipe.vae_scale_factor
    return {"height": side, "width": side, "output_type": "latent"}


def for_captions(pipe, given):
    """PixArt and Latte."""
    found = {**texts(pipe, pipe.transformer.config.caption_channels), **square(pipe), "negative_prompt": None}
    if "PixArt" not in type(pipe).__name__:
        return {**found, "video_length": pipe.transformer.config.video_length}
    masks = ("prompt_attention_mask", "negative_prompt_attention_mask")
    return {**found, "use_resolution_binning": False, **dict.fromkeys(masks, torch.ones(1, TOKENS))}


def for_two_texts(pipe, given):
    """SD3 and Flux."""
    config = pipe.transformer.config
    pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    pools = {name: randn(1, config.pooled_projection_dim, seed=seed) for seed, name in enumerate(pooled)}
    return {**texts(pipe, config.joint_attention_dim), **pools, **square(pipe)}


def for_wan(pipe, given):
    width = pipe.transformer.config.text_dim
    return {**texts(pipe, width), "height": 16, "width": 16, "num_frames": 9, "output_type": "latent"}


def hunyuan_video():
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return quiet(HunyuanVideoPipeline(transformer=denoiser("hunyuan_video"), scheduler=scheduler, **parts))


def for_hunyuan_video(pipe, given):
    config = pipe.transformer.config
    return {
        **texts(pipe, config.text_embed_dim, names=("prompt_embeds",)),
        "pooled_prompt_embeds": randn(1, config.pooled_projection_dim),
        "prompt_attention_mask": torch.ones(1, TOKENS),
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "output_type": "latent",
    }


def stable_audio():
    model = denoiser("stable_audio", cross_attention_input_dim=12, global_states_input_dim=24)
    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2], decoder_channels=4, decoder_input_channels=4, sampling_rate=8
    )
    projection = StableAudioProjectionModel(text_encoder_dim=12, conditioning_dim=12, min_value=0, max_value=32)
    scheduler = EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction", sigma_data=1.0)
    return quiet(StableAudioPipeline(vae.eval(), None, projection.eval(), None, model, scheduler))


def for_audio(pipe, given):
    masks = dict.fromkeys(("attention_mask", "negative_attention_mask"), torch.ones(1, TOKENS, dtype=torch.long))
    return {**texts(pipe, 12), **masks, "audio_end_in_s": 3.0, "negative_prompt": None, "output_type": "latent"}


def as_it_is(pipe, given):
    return {"output_type": "pt"}


RELEASED = {
    "facebook/DiT-XL-2-256": (pipelines.dit, as_it_is),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": (pipelines.sigma, for_captions),
    "stabilityai/stable-diffusion-3.5-medium": (pipelines.sd3, for_two_texts),
    "black-forest-labs/FLUX.1-dev": (pipelines.flux, for_two_texts),
    "maxin-cn/Latte-1": (pipelines.latte, for_captions),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": (partial(pipelines.wan, two=True), for_wan),
    "hunyuanvideo-community/HunyuanVideo": (hunyuan_video, for_hunyuan_video),
    "stabilityai/stable-audio-open-1.0": (stable_audio, for_audio),
}


def released(address):
    """The stand-in: called as the docs call the released one, it samples tiny things from embeddings."""
    make, arguments = RELEASED[address]
    pipe = make()
    kind = type(pipe)

    def call(self, prompt=None, **given):
        return kind.__call__(self, **{**given, **arguments(self, given)})

    pipe.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return pipe


@pytest.fixture
def from_hub(monkeypatch):
    """`from_pretrained` of all pipelines gives stand-ins; it must be asked for their own class, or the general one."""

    def from_pretrained(cls, address, **kwargs):
        pipe = released(address)
        assert isinstance(pipe, cls), f"{address} is no {cls.__name__}"
        return pipe

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
