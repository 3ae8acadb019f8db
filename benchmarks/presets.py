"""What `skipcache bench --preset` times: denoisers of real size with random weights, and the trained references.

No download: time does not ask for sense. On the CPU those of real size are built at reduced width, depth and
resolution, so that their code runs everywhere; the references are what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.references import Reference, balanced, find_reference
from skipcache.benchmarks.sampling import make_scheduler

TOKENS = 120  # of a prompt
XL: dict[str, Any] = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72}
REDUCED: dict[str, Any] = {"num_layers": 6, "num_attention_heads": 2, "attention_head_dim": 24}
IMAGE: dict[str, Any] = {"in_channels": 4, "out_channels": 8, "patch_size": 2, "activation_fn": "gelu-approximate"}
TEXT: dict[str, Any] = {"caption_channels": 4096, "cross_attention_dim": 1152, "norm_elementwise_affine": False}
REDUCED_TEXT: dict[str, Any] = {"caption_channels": 64, "cross_attention_dim": 48}

Conditions = Callable[[Any, int], dict[str, Any]]


def _classes(config: Any, batch: int) -> dict[str, Any]:
    return {"class_labels": torch.arange(batch) % config["num_embeds_ada_norm"]}


def _prompt(config: Any, batch: int) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.randn(batch, TOKENS, config["caption_channels"])}


def _sized_prompt(config: Any, batch: int) -> dict[str, Any]:
    """PixArt at 1024 pixels is told the size, too."""
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config["use_additional_conditions"]:
        sizes = {"resolution": torch.full((batch, 2), 1024.0), "aspect_ratio": torch.ones(batch, 1)}
    return {**_prompt(config, batch), "added_cond_kwargs": sizes}


@dataclass(frozen=True)
class Preset:
    """A class of diffusers, its configuration, and what of it is reduced; `batch` counts both halves of guidance."""

    cls: str
    config: dict[str, Any]
    conditions: Conditions
    batch: int
    reduced: dict[str, Any] = field(default_factory=dict)

    def batch_on(self, device: torch.device) -> int:
        return 2 if device.type == "cpu" else self.batch

    def scheduler(self) -> Any:
        return make_scheduler("ddim")

    def build(self, device: torch.device, dtype: torch.dtype, small: bool) -> nn.Module:
        """With weights as the class draws them, none of which are zero; the same ones on each call."""
        config = {**self.config, **(self.reduction() if small else {})}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            model: nn.Module = getattr(diffusers, self.cls)(**config)
        return nn.Module.to(model, device, dtype).eval().requires_grad_(False)

    def reduction(self) -> dict[str, Any]:
        return {**REDUCED, "sample_size": self.config["sample_size"] // 4, **self.reduced}

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        """(noise, conditioning), where the model is; the same on each call."""
        config, size = model.config, model.config["sample_size"]
        frames = (config["video_length"],) if "video_length" in config else ()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            noise = torch.randn(batch, config["in_channels"], *frames, size, size)
            conditions = self.conditions(config, batch)
        return noise.to(model.device), _to(conditions, model.device, model.dtype)


@dataclass(frozen=True)
class ReferencePreset:
    """A trained reference as it is, on 16 samples and, for guidance, as many without a condition."""

    reference: Reference

    def batch_on(self, device: torch.device) -> int:
        return 32

    def scheduler(self) -> Any:
        return make_scheduler("ddim", self.reference.prediction)

    def build(self, device: torch.device, dtype: torch.dtype, small: bool) -> nn.Module:
        return nn.Module.to(self.reference.load(), device, dtype).eval().requires_grad_(False)

    def reduction(self) -> dict[str, Any]:
        return {}

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        data = self.reference.data()
        labels = balanced(batch, data.classes)
        labels[(batch + 1) // 2 :] = data.classes
        noise = torch.randn(batch, *data.samples.shape[1:], generator=torch.Generator().manual_seed(0))
        return noise.to(model.device), _to(data.conditions(labels), model.device, model.dtype)


def find_preset(name: str) -> Preset | ReferencePreset:
    return ALL[name] if name in ALL else ReferencePreset(find_reference(name))


def _to(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _to(part, device, dtype) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    return value


def _dit(size: int, batch: int) -> Preset:
    config = {**XL, **IMAGE, "sample_size": size, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000}
    return Preset("DiTTransformer2DModel", {**config, "norm_elementwise_affine": False}, _classes, batch)


def _pixart(size: int, batch: int) -> Preset:
    config = {**XL, **IMAGE, **TEXT, "sample_size": size, "norm_type": "ada_norm_single", "norm_eps": 1e-6}
    config["use_additional_conditions"] = size == 128
    return Preset("PixArtTransformer2DModel", config, _sized_prompt, batch, REDUCED_TEXT)


def _latte(size: int, frames: int, batch: int) -> Preset:
    config = {**XL, **IMAGE, **TEXT, "sample_size": size, "video_length": frames, "attention_bias": True}
    config["num_embeds_ada_norm"] = 1000
    return Preset("LatteTransformer3DModel", config, _prompt, batch, {**REDUCED_TEXT, "video_length": 4})


# The first names of `settings.PRESETS`; the others are those of references.
ALL: dict[str, Preset] = {
    "dit-xl-256": _dit(32, 16),
    "dit-xl-512": _dit(64, 8),
    "pixart-xl-512": _pixart(64, 8),
    "pixart-xl-1024": _pixart(128, 2),
    "latte-xl-16x256": _latte(32, 16, 2),
}
