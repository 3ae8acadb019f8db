"""A diffusers denoiser on the meta device, by class name or from a folder, and inputs to call it with."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

# Classes whose own defaults make no model: the published configuration (of Latte-1) instead.
PUBLISHED: dict[str, dict[str, Any]] = {
    "LatteTransformer3DModel": {
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "cross_attention_dim": 1152,
        "attention_bias": True,
        "sample_size": 64,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_elementwise_affine": False,
        "caption_channels": 4096,
        "video_length": 16,
    }
}
TEXT_WIDTHS = ("caption_channels", "text_embed_dim", "text_dim", "joint_attention_dim", "cross_attention_dim")
TEXT_TOKENS = 120
MOST_LAYERS = 1000  # each is built, if without weights


@dataclass(frozen=True)
class Example:
    model: nn.Module
    origin: str


def build(target: str, overrides: Sequence[str] = ()) -> Example:
    """`target` names a class of diffusers or a folder; no weights are read, and none take memory."""
    changes = dict(_parse(pair) for pair in overrides)
    folder = Path(target)
    if (folder / "config.json").is_file():
        config = _read(folder / "config.json")
        cls, origin = _class(config.get("_class_name", "")), f"as configured in {folder}"
    elif folder.is_dir():
        raise ValueError(f"expected config.json in {folder}, found none; name a denoiser's own folder")
    else:
        cls, config = _class(target), PUBLISHED.get(target, {})
        origin = "in its published configuration" if config else "in its class' default configuration"
    origin += "".join(f", {key}={value}" for key, value in changes.items())
    return Example(_on_meta(cls, {**config, **changes}), origin)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got other content: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"expected a model's settings by name in {path}, got {type(config).__name__}")
    return config


def _class(name: Any) -> Any:
    known = isinstance(name, str) and name.isidentifier()
    cls = getattr(diffusers, name, None) if known else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(
            f"expected a model class of diffusers, such as DiTTransformer2DModel, or a folder "
            f"with a config.json that names one, got {name!r}"
        )
    return cls


def _parse(pair: str) -> tuple[str, Any]:
    key, _, text = pair.partition("=")
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return key, text


def _on_meta(cls: Any, config: dict[str, Any]) -> nn.Module:
    unknown = {key for key in config if not key.startswith("_")} - set(inspect.signature(cls).parameters)
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}; see its documentation")
    for key, value in config.items():
        if "layers" in key and type(value) is int and value > MOST_LAYERS:
            raise ValueError(f"{key}: expected at most {MOST_LAYERS}, got {value}; give fewer with --config {key}=...")
    try:
        with torch.device("meta"):
            model: nn.Module = cls.from_config(config)
    except Exception as error:  # a class may refuse a setting in any way
        raise ValueError(
            f"{cls.__name__} cannot be built from {config or 'its defaults'}: {_said(error)}; "
            f"correct a setting or give one that is missing with --config KEY=VALUE, or name a folder"
        ) from error
    return model.to("meta").eval()


def _said(error: Exception) -> str:
    """The message of the error, or its class where it has none."""
    return str(error).strip() or type(error).__name__


def example_inputs(model: Any) -> dict[str, Any] | None:
    """Keyword arguments for a call with a batch of one; None where the sample's shape is not known.

    Raises ValueError where the configuration gives sizes that no tensor can have.
    """
    try:
        sample = _sample_shape(model)
        return None if sample is None else _inputs(model, sample)
    except Exception as error:  # a configuration may hold anything
        raise ValueError(
            f"{type(model).__name__}: expected sizes of a sample and its conditions above 0, got a configuration for "
            f"which none can be made: {_said(error)}; correct sample_size, in_channels or the like with --config"
        ) from error


def _inputs(model: Any, sample: tuple[int, ...]) -> dict[str, Any]:
    config = model.config
    width = next((config[key] for key in TEXT_WIDTHS if config.get(key)), 1)
    tokens = config.get("max_text_seq_length", TEXT_TOKENS)
    shapes: dict[str, tuple[int, ...]] = {
        "hidden_states": sample,
        "timestep": (1,),
        "encoder_hidden_states": (1, tokens, width),
        "pooled_projections": (1, config.get("pooled_projection_dim") or 1),
        "img_ids": (sample[1], 3),
        "txt_ids": (tokens, 3),
    }
    known: dict[str, Any] = {name: torch.ones(shape, device="meta") for name, shape in shapes.items()}
    known["class_labels"] = torch.zeros(1, dtype=torch.long, device="meta")
    known["added_cond_kwargs"] = {
        "resolution": torch.ones(1, 2, device="meta"),
        "aspect_ratio": torch.ones(1, 1, device="meta"),
    }
    if config.get("guidance_embeds"):
        known["guidance"] = torch.ones(1, device="meta")
    known["return_dict"] = False
    names = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in known.items() if name in names}


def _sample_shape(model: Any) -> tuple[int, ...] | None:
    config, name = model.config, type(model).__name__
    channels, size = config.get("in_channels"), config.get("sample_size")
    if name == "LatteTransformer3DModel":
        return (1, channels, config["video_length"], size, size)
    if name == "CogVideoXTransformer3DModel":
        frames = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
        return (1, frames, channels, config["sample_height"], config["sample_width"])
    if name == "WanTransformer3DModel":
        return (1, channels, 21, 60, 104)  # 81 frames of 480 x 832
    if name == "FluxTransformer2DModel":
        return (1, 4096, channels)  # 1024 x 1024, packed
    if isinstance(size, int) and isinstance(channels, int):
        return (1, channels, size, size)
    return None
