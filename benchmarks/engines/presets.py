"""Builds what `skipcache engines` times: denoisers of real size with random weights, and the trained references.

Nothing is downloaded: timings do not depend on the values of the weights. On the CPU those of real size are built at
reduced width, depth and resolution, so that their code runs everywhere. The references are not reduced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.names.presets import REAL_SIZES, RealSize
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.schedulers import make_scheduler

TOKENS = 120  # of a prompt


@dataclass(frozen=True)
class Preset:
    """A configuration of real size, with random weights."""

    size: RealSize

    def batch_on(self, device: torch.device) -> int:
        return 2 if device.type == "cpu" else self.size.batch

    def scheduler(self) -> Any:
        return make_scheduler("ddim")

    def build(self, device: torch.device, dtype: torch.dtype, small: bool) -> nn.Module:
        """With weights as the class draws them, none of which are zero; the same ones on each call."""
        config = {**self.size.config, **(self.reduction() if small else {})}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            model: nn.Module = getattr(diffusers, self.size.cls)(**config)
        return nn.Module.to(model, device, dtype).eval().requires_grad_(False)

    def reduction(self) -> dict[str, Any]:
        return self.size.reduction

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        """(noise, conditioning), where the model is; the same on each call."""
        config, size = model.config, model.config["sample_size"]
        frames = (config["video_length"],) if "video_length" in config else ()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            noise = torch.randn(batch, config["in_channels"], *frames, size, size)
            conditions = CONDITIONS[self.size.cls](config, batch)
        return noise.to(model.device), _to(conditions, model.device, model.dtype)


@dataclass(frozen=True)
class ReferencePreset:
    """A trained reference as it is, on 16 samples and, for guidance, as many without a condition."""

    reference: Reference

    def batch_on(self, device: torch.device) -> int:
        return 32

    def scheduler(self) -> Any:
        return make_scheduler(self.reference.usual_scheduler, self.reference.prediction)

    def build(self, device: torch.device, dtype: torch.dtype, small: bool) -> nn.Module:
        return nn.Module.to(self.reference.load(), device, dtype).eval().requires_grad_(False)

    def reduction(self) -> dict[str, Any]:
        return {}

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        data = self.reference.data()
        labels = balanced(batch, data.classes)
        labels[(batch + 1) // 2 :] = data.classes
        shape = self.reference.latent_shape or data.samples.shape[1:]
        noise = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        return noise.to(model.device), _to(data.conditions(labels), model.device, model.dtype)


def find_preset(name: str) -> Preset | ReferencePreset:
    return Preset(REAL_SIZES[name]) if name in REAL_SIZES else ReferencePreset(find_reference(name))


def _to(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _to(part, device, dtype) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    return value


def _classes(config: Any, batch: int) -> dict[str, Any]:
    return {"class_labels": torch.arange(batch) % config["num_embeds_ada_norm"]}


def _prompt(config: Any, batch: int) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.randn(batch, TOKENS, config["caption_channels"])}


def _sized_prompt(config: Any, batch: int) -> dict[str, Any]:
    """PixArt at 1024 pixels is given the size, too."""
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config["use_additional_conditions"]:
        sizes = {"resolution": torch.full((batch, 2), 1024.0), "aspect_ratio": torch.ones(batch, 1)}
    return {**_prompt(config, batch), "added_cond_kwargs": sizes}


CONDITIONS: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "DiTTransformer2DModel": _classes,
    "PixArtTransformer2DModel": _sized_prompt,
    "LatteTransformer3DModel": _prompt,
}
