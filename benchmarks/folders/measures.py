"""What is measured of a pair, and of all pairs: PSNR and SSIM always, LPIPS and FID where their weights are at hand."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcache.benchmarks.folders.files import as_tensor
from skipcache.benchmarks.sampling.metrics import compare

LEAST = 8  # pixels at a side: SSIM looks through a window
# Measure -> (package beside torchmetrics, weights in torch.hub's folder). None is ever downloaded.
NEEDED = {
    "lpips": ("torchvision", "alexnet-owt-7be5be79.pth"),
    "fid": ("torch_fidelity", "weights-inception-2015-12-05-6726825d.pth"),
}
Perceptual = Callable[[Tensor, Tensor], float]  # both (N, 3, H, W) in [0, 1]


def missing(measure: str) -> str | None:
    """Why LPIPS or FID cannot be measured here; None where it can."""
    package, weights = NEEDED[measure]
    if find_spec(package) is None:
        return f"{package} is not installed"
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights
    return None if path.is_file() else f"its weights are not at {path}"


def lpips() -> Perceptual:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()
    return lambda x, y: metric(x, y).item()


def frechet() -> Any:
    """torchmetrics' FID on 2048 features; `update(images, real=)`, then `compute()`."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048, normalize=True)


def measure(a: np.ndarray, b: np.ndarray, perceptual: Perceptual | None = None) -> dict[str, Any]:
    """Of one pair: `psnr` in dB (None where they are equal), `ssim`, `lpips`. Raises ValueError where sizes differ."""
    a, b = in_step(a, b)
    if a.shape != b.shape:
        raise ValueError(f"expected samples of one size, got {size_of(a)} and {size_of(b)}; resize one of the folders")
    if min(a.shape[-3:-1]) < LEAST:
        raise ValueError(f"expected at least {LEAST} x {LEAST} pixels, got {size_of(a)}")
    x, y = as_tensor(a), as_tensor(b)
    found = compare(x, y).row()
    row = {name: found[name] for name in ("psnr", "ssim", "exact")}
    return row if perceptual is None else {**row, "lpips": perceptual(as_pictures(x), as_pictures(y))}


def in_step(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A grey sample beside a coloured one as three equal channels; without transparency."""
    a, b = (x[..., :3] for x in (a, b))
    channels = max(a.shape[-1], b.shape[-1])
    return tuple(np.repeat(x, channels, -1) if x.shape[-1] == 1 < channels else x for x in (a, b))  # type: ignore


def as_pictures(x: Tensor) -> Tensor:
    """(N, 3, H, W) of pictures or of all frames of videos."""
    if x.ndim == 5:
        x = x.transpose(1, 2).flatten(0, 1)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def size_of(sample: np.ndarray) -> str:
    frames = f"{sample.shape[0]} frames of " if sample.ndim == 4 else ""
    return f"{frames}{sample.shape[-2]} x {sample.shape[-3]}"


def spread(values: list[float]) -> dict[str, float] | None:
    """None of no values. `std` is the deviation among pairs, not the error of the mean."""
    if not values:
        return None
    x = np.array(values)
    low, middle, high = (float(np.quantile(x, q)) for q in (0, 0.5, 1))
    return {"mean": float(x.mean()), "std": float(x.std()), "least": low, "median": middle, "most": high}
