"""Real diffusers pipelines with tiny random components, and prompt embeddings in the place of text encoders."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)

from tests.zoo import ZOO, randomise


def vae(channels=4):
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=16,
        layers_per_block=1,
        shift_factor=0.0,
    )
    return randomise(model).eval()


def denoiser(name, seed=0, **config):
    entry = ZOO[name]
    torch.manual_seed(seed)
    model = entry.cls(**{**entry.make.keywords, **config}) if config else entry.make()
    return randomise(model.float(), seed).eval().requires_grad_(False)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dit():
    model = denoiser("dit", num_embeds_ada_norm=1001)
    return quiet(DiTPipeline(model, vae(model.config.in_channels), DDIMScheduler()))


def run_dit(pipe, steps=7, seed=0, batch=1, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    labels = list(range(batch))
    return pipe(labels, num_inference_steps=steps, generator=generator, output_type="pt", **kwargs).images


def text(pipe, batch=1, seed=0):
    width = pipe.transformer.config.caption_channels
    embeds = {
        "prompt_embeds": randn(batch, 6, width, seed=seed),
        "negative_prompt_embeds": randn(batch, 6, width, seed=9),
    }
    masks = {"prompt_attention_mask": torch.ones(batch, 6), "negative_prompt_attention_mask": torch.ones(batch, 6)}
    return embeds, masks


def pixart(kind=PixArtAlphaPipeline, name="pixart_alpha", scheduler=None):
    model = denoiser(name, use_additional_conditions=False)
    scheduler = scheduler or DPMSolverMultistepScheduler()
    return quiet(kind(None, None, vae(model.config.in_channels), model, scheduler))


def sigma():
    return pixart(PixArtSigmaPipeline, "pixart_sigma")


def run_pixart(pipe, steps=7, seed=0, batch=1, size=None, **kwargs):
    embeds, masks = text(pipe, batch, seed)
    side = (size or pipe.transformer.config.sample_size) * pipe.vae_scale_factor
    kwargs = {"use_resolution_binning": False, "height": side, "width": side, **embeds, **masks, **kwargs}
    generator = torch.Generator().manual_seed(seed)
    return pipe(
        None, negative_prompt=None, num_inference_steps=steps, generator=generator, output_type="latent", **kwargs
    ).images


def latte(frames=5):
    model = denoiser("latte", video_length=frames)
    return quiet(LattePipeline(None, None, vae(model.config.in_channels), model, DDIMScheduler()))


def run_latte(pipe, steps=7, seed=0, **kwargs):
    embeds, _ = text(pipe, 1, seed)
    side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    return pipe(
        None,
        negative_prompt=None,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        video_length=pipe.transformer.config.video_length,
        height=side,
        width=side,
        **embeds,
        **kwargs,
    ).frames


def sd3(kind=StableDiffusion3Pipeline):
    model = denoiser("sd3")
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"))
    parts |= dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    return quiet(kind(transformer=model, vae=vae(model.config.in_channels), scheduler=scheduler, **parts))


def run_sd3(pipe, steps=7, seed=0, batch=1, **kwargs):
    config = pipe.transformer.config
    side = config.sample_size * pipe.vae_scale_factor
    if not isinstance(pipe, StableDiffusion3Img2ImgPipeline):
        kwargs = {"height": side, "width": side, **kwargs}
    return pipe(
        prompt_embeds=randn(batch, 6, config.joint_attention_dim, seed=seed),
        negative_prompt_embeds=randn(batch, 6, config.joint_attention_dim, seed=9),
        pooled_prompt_embeds=randn(batch, config.pooled_projection_dim, seed=seed),
        negative_pooled_prompt_embeds=randn(batch, config.pooled_projection_dim, seed=9),
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **kwargs,
    ).images


def wan(two=False):
    """Guidance by separate calls, each in a `cache_context`; with `two`, a second denoiser for the low noise."""
    model = denoiser("wan")
    torch.manual_seed(0)
    autoencoder = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    more = {"transformer_2": denoiser("wan", seed=1), "boundary_ratio": 0.8} if two else {}
    return quiet(WanPipeline(None, None, autoencoder.eval(), scheduler, transformer=model, **more))


def run_wan(pipe, steps=7, seed=0, **kwargs):
    config = pipe.transformer.config
    return pipe(
        None,
        prompt_embeds=randn(1, 6, config.text_dim, seed=seed),
        negative_prompt_embeds=randn(1, 6, config.text_dim, seed=9),
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        height=16,
        width=16,
        num_frames=9,
        **kwargs,
    ).frames
