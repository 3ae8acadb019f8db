"""Weights that ship with the package: float16 safetensors, with the training settings in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

FOLDER = Path(__file__).parent / "weights"


def save_weights(model: nn.Module, path: Path, settings: dict[str, Any]) -> None:
    """Half the size of float32, and no difference that a sample shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(half, path, metadata={"skipcache": json.dumps(settings)})


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model in eval mode, in its own dtype."""
    if not path.exists():
        raise ValueError(f"expected weights at {path}, found none; `skipcache train {path.stem}` makes them")
    model.load_state_dict(load_file(path))
    return model.eval()


def read_settings(path: Path) -> dict[str, Any]:
    """How the weights were made: task, seed, recipe, versions, scores."""
    with safe_open(path, framework="pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["skipcache"])
    return settings
