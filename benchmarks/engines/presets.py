"""Builds what `skipcache engines` times: denoisers of real size with random weights, and the trained references.

Nothing is downloaded: timings do not depend on the values of the weights. Those of real size can be built at reduced
width, depth and resolution, so that their code runs everywhere, or with fewer blocks. The references are as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from skipcache.benchmarks.names.presets import REAL_SIZES, RealSize
from skipcache.benchmarks.names.schedulers import FLOW, TRAIN_STEPS
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.sampling.schedulers import make_scheduler


@dataclass(frozen=True)
class Preset:
    """A configuration of real size, with random weights; `layers` in place of its depth."""

    size: RealSize
    reduced: bool = False
    layers: int | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """What makes it smaller than real."""
        return self.size.changes(self.reduced, self.layers)

    @property
    def layers_now(self) -> int:
        found: int = {**self.size.config, **self.changes}["num_layers"]
        return found

    @property
    def time_unit(self) -> int:
        """What the model is given is the timestep over this: Flux has it in [0, 1]."""
        return TRAIN_STEPS if self.size.cls == "FluxTransformer2DModel" else 1

    def batch_on(self, device: torch.device) -> int:
        return min(2, self.size.batch) if device.type == "cpu" else self.size.batch

    def scheduler(self) -> Any:
        return make_scheduler("euler", FLOW) if self.size.flow else make_scheduler("ddim")

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """With weights as the class draws them, none of which are zero; the same ones on each call."""
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device, _by_default(dtype):
            torch.manual_seed(0)
            model: nn.Module = getattr(diffusers, self.size.cls)(**{**self.size.config, **self.changes})
        return nn.Module.to(model, device, dtype).eval().requires_grad_(False)

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        """(noise, conditioning), where the model is; the same on each call."""
        grid = self.size.reduced_grid if self.reduced else self.size.grid
        channels = model.config["in_channels"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.size.cls == "FluxTransformer2DModel":
                noise = torch.randn(batch, grid[0] * grid[1], channels)
            else:
                noise = torch.randn(batch, channels, *grid)
            conditions = CONDITIONS[self.size.cls](model.config, batch, self.size.tokens, grid)
        return noise.to(model.device), _to(conditions, model.device, model.dtype)


@dataclass(frozen=True)
class ReferencePreset:
    """A trained reference as it is, on 16 samples and, for guidance, as many without a condition."""

    reference: Reference
    time_unit = 1

    @property
    def changes(self) -> dict[str, Any]:
        return {}

    def batch_on(self, device: torch.device) -> int:
        return 32

    def scheduler(self) -> Any:
        return make_scheduler(self.reference.usual_scheduler, self.reference.prediction)

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        return nn.Module.to(self.reference.load(), device, dtype).eval().requires_grad_(False)

    def inputs(self, model: Any, batch: int) -> tuple[Tensor, dict[str, Any]]:
        data = self.reference.data()
        labels = balanced(batch, data.classes)
        labels[(batch + 1) // 2 :] = data.classes
        shape = self.reference.latent_shape or data.samples.shape[1:]
        noise = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        return noise.to(model.device), _to(data.conditions(labels), model.device, model.dtype)


def find_preset(name: str, reduced: bool, layers: int | None) -> Preset | ReferencePreset:
    if name in REAL_SIZES:
        return Preset(REAL_SIZES[name], reduced, layers)
    return ReferencePreset(find_reference(name))


@contextmanager
def _by_default(dtype: torch.dtype) -> Iterator[None]:
    """Weights are made in their own dtype: a large model may not fit in two."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _to(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _to(part, device, dtype) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    return value


def _classes(config: Any, batch: int, tokens: int, grid: tuple[int, ...]) -> dict[str, Any]:
    return {"class_labels": torch.arange(batch) % config["num_embeds_ada_norm"]}


def _prompt(config: Any, batch: int, tokens: int, grid: tuple[int, ...]) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.randn(batch, tokens, config["caption_channels"])}


def _sized_prompt(config: Any, batch: int, tokens: int, grid: tuple[int, ...]) -> dict[str, Any]:
    """PixArt at 1024 pixels is given the size, too."""
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config["use_additional_conditions"]:
        sizes = {"resolution": torch.full((batch, 2), 1024.0), "aspect_ratio": torch.ones(batch, 1)}
    return {**_prompt(config, batch, tokens, grid), "added_cond_kwargs": sizes}


def _video_prompt(config: Any, batch: int, tokens: int, grid: tuple[int, ...]) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.randn(batch, tokens, config["text_dim"])}


def _flux_prompt(config: Any, batch: int, tokens: int, grid: tuple[int, ...]) -> dict[str, Any]:
    """With the places of text and image tokens, and the scale that guidance was distilled to."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
    places = torch.stack([torch.zeros(grid), *torch.meshgrid(rows, columns, indexing="ij")], dim=-1)
    return {
        "encoder_hidden_states": torch.randn(batch, tokens, config["joint_attention_dim"]),
        "pooled_projections": torch.randn(batch, config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(tokens, 3),
        "img_ids": places.flatten(0, 1),
        "guidance": torch.full((batch,), 3.5),
    }


CONDITIONS: dict[str, Callable[[Any, int, int, tuple[int, ...]], dict[str, Any]]] = {
    "DiTTransformer2DModel": _classes,
    "PixArtTransformer2DModel": _sized_prompt,
    "LatteTransformer3DModel": _prompt,
    "FluxTransformer2DModel": _flux_prompt,
    "WanTransformer3DModel": _video_prompt,
}
