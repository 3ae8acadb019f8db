"""Files of weights: float16 safetensors, with the training settings in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

FOLDER = Path(__file__).parents[1] / "weights"  # those that ship with the package


def save_weights(model: nn.Module, path: Path, settings: dict[str, Any]) -> None:
    """In float16: half the size of float32, without a visible difference in samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(half, path, metadata={"skipcache": json.dumps(settings)})


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model in eval mode, in its own dtype. Raises ValueError for a file that does not hold its weights."""
    if not path.is_file():
        raise ValueError(f"expected weights at {path}, found none; `skipcache train {path.stem}` makes them")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected weights of this {type(model).__name__} at {path}, got other content: {said}; "
            "name a file that `skipcache train` wrote for it"
        ) from error
    return model.eval()


def read_settings(path: Path) -> dict[str, Any]:
    """How the weights were made: task, seed, recipe, versions, scores."""
    with safe_open(path, framework="pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["skipcache"])
    return settings
