"""Tiny models of ComfyUI's own classes, sampled by its own code, where SKIPCACHE_COMFYUI names a checkout of it."""

import importlib
import importlib.machinery
import os
import sys
import types
from functools import cache

import torch

CHECKOUT = os.environ.get("SKIPCACHE_COMFYUI")
OPTIONAL = ("torchvision", "torchaudio", "kornia", "spandrel", "spandrel_extra_arches", "cv2")
WIDTH = {"hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "qkv_bias": True}
FLUX = dict(WIDTH, in_channels=16, out_channels=16, vec_in_dim=12, context_in_dim=20, depth=3, depth_single_blocks=3)
FLUX |= {"image_model": "flux", "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "guidance_embed": True}
VIDEO = dict(FLUX, image_model="hunyuan_video", theta=256, patch_size=[1, 2, 2], byt5=False, meanflow=False)
PIXART = {
    "input_size": 64,
    "hidden_size": 32,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "caption_channels": 20,
    "model_max_length": 12,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 32,
    "ffn_dim": 48,
    "freq_dim": 16,
    "text_dim": 20,
    "in_dim": 16,
    "out_dim": 16,
}
WAN |= {"num_heads": 2, "num_layers": 4, "patch_size": (1, 2, 2), "window_size": (-1, -1), "text_len": 8}
ROPE = {"axes_dims": [4, 6, 6], "axes_lens": [32, 32, 32]}
PICTURE, MOVIE = (1, 16, 8, 8), (1, 16, 2, 8, 8)

# name -> class in comfy.supported_models, its unet_config, the shape of its latent, more of the conditioning
FAMILIES = {
    "flux": ("Flux", FLUX, PICTURE, {"pooled_output": (1, 12)}),
    "schnell": ("FluxSchnell", dict(FLUX, guidance_embed=False), PICTURE, {"pooled_output": (1, 12)}),
    "sd3": (
        "SD3",
        {
            "in_channels": 16,
            "patch_size": 2,
            "depth": 4,
            "num_blocks": 4,
            "input_size": None,
            "adm_in_channels": 12,
            "num_patches": 256,
        }
        | {"pos_embed_max_size": 16, "pos_embed_scaling_factor": None, "context_size": 20, "qkv_bias": True}
        | {
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 20, "out_features": 256},
            },
        },
        PICTURE,
        {"pooled_output": (1, 12)},
    ),
    "aura": (
        "AuraFlow",
        {
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "dim": 32,
            "n_layers": 6,
            "n_double_layers": 2,
            "n_heads": 2,
        }
        | {"global_conddim": 32, "cond_seq_dim": 20, "max_seq": 256},
        (1, 4, 8, 8),
        {},
    ),
    "pixart": ("PixArtAlpha", dict(PIXART, image_model="pixart_alpha", micro_condition=False), (1, 4, 64, 64), {}),
    "ltxv": (
        "LTXV",
        {"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 32, "attention_head_dim": 16}
        | {"num_attention_heads": 2, "caption_channels": 20, "num_layers": 4},
        (1, 128, 2, 4, 4),
        {"attention_mask": (1, 7)},
    ),
    "hunyuan_video": ("HunyuanVideo", VIDEO, MOVIE, {"pooled_output": (1, 12)}),
    "lumina": (
        "Lumina2",
        dict(ROPE, image_model="lumina2", patch_size=2, in_channels=16, dim=32, n_layers=4, n_refiner_layers=2)
        | {"n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 20, "qk_norm": True, "multiple_of": 16},
        PICTURE,
        {"attention_mask": (1, 7)},
    ),
    "wan": ("WAN21_T2V", WAN, MOVIE, {}),
    "wan_5b": ("WAN22_T2V", dict(WAN, in_dim=48, out_dim=48), (1, 48, 2, 8, 8), {}),
    "hunyuan_3d": (
        "Hunyuan3Dv2",
        dict(WIDTH, image_model="hunyuan3d2", in_channels=16, context_in_dim=20, depth=3, depth_single_blocks=3)
        | {"guidance_embed": False},
        (1, 16, 12),
        {},
    ),
    "qwen": (
        "QwenImage",
        {"image_model": "qwen_image", "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 4}
        | {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 20, "axes_dims_rope": (4, 6, 6)},
        (1, 16, 1, 8, 8),
        {},
    ),
}


class Inert:
    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert()


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages that ComfyUI imports and these models do not use, where they are not installed."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in OPTIONAL else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__, module.__version__ = [], "0.0.0"
        module.__getattr__ = lambda name: type(name, (Inert,), {})
        return module

    def exec_module(self, module):
        pass


@cache
def comfy():
    """ComfyUI's packages that are needed here."""
    sys.path.insert(0, CHECKOUT)
    sys.meta_path.append(Absent())
    argv, sys.argv = sys.argv, ["comfy", "--cpu"]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        names = ("sample", "samplers", "model_patcher", "supported_models")
        return types.SimpleNamespace(**{name: importlib.import_module(f"comfy.{name}") for name in names})
    finally:
        sys.argv = argv


def patcher(name):
    kind, config, _, _ = FAMILIES[name]
    settings = getattr(comfy().supported_models, kind)(dict(config, dtype=torch.float32))
    settings.unet_config = dict(config, dtype=torch.float32)
    model = settings.get_model({}, "")
    draw = torch.Generator().manual_seed(0)
    for path, p in model.diffusion_model.named_parameters():
        drawn = torch.randn(p.shape, generator=draw) * 0.15
        p.data.copy_(drawn + (1 if p.ndim == 1 and "norm" in path and path.endswith(("weight", "scale")) else 0))
    cpu = torch.device("cpu")
    return comfy().model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def text(name, seed):
    draw = torch.Generator().manual_seed(seed)
    more = {
        key: torch.ones(shape, dtype=torch.long) if "mask" in key else torch.randn(shape, generator=draw)
        for key, shape in FAMILIES[name][3].items()
    }
    return [[torch.randn(1, 7, 20, generator=draw), more]]


def sample(model, name, steps=10, sampler="euler", scheduler="simple", cfg=4.0, texts=None, **more):
    latent = torch.zeros(FAMILIES[name][2])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    both = texts or (text(name, 1), text(name, 2))
    with torch.inference_mode():
        return comfy().sample.sample(
            model, noise, steps, cfg, sampler, scheduler, *both, latent, disable_pbar=True, seed=3, **more
        )
