"""Fidelity to the uncached samples. PSNR per image or video, so that a mean comes with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance


@dataclass(frozen=True)
class Fidelity:
    """`psnr` in dB (infinite when `exact`), `psnr_error` its standard error over images, `ssim` the mean."""

    psnr: float
    psnr_error: float
    ssim: float
    exact: bool

    def row(self) -> dict[str, Any]:
        """For JSON, which has no infinity: null there means exact."""
        finite = math.isfinite(self.psnr)
        return {
            "psnr": self.psnr if finite else None,
            "psnr_error": self.psnr_error if finite else None,
            "ssim": self.ssim,
            "exact": self.exact,
        }


def compare(samples: Tensor, reference: Tensor) -> Fidelity:
    """Both (N, C, H, W), or (N, C, frames, H, W), in [0, 1], the range that an image viewer shows."""
    exact = torch.equal(samples, reference)
    each = tuple(range(1, samples.ndim))
    psnr = peak_signal_noise_ratio(samples, reference, data_range=1.0, dim=each, reduction="none")  # (N,)
    error = 0.0 if exact else (psnr.std() / math.sqrt(len(psnr))).item() if len(psnr) > 1 else math.nan
    return Fidelity(math.inf if exact else psnr.mean().item(), error, _ssim(samples, reference), exact)


def _ssim(samples: Tensor, reference: Tensor) -> float:
    """Mean over images or frames. The usual window of 11 pixels does not fit 8x8 images: those take one of 5."""
    if samples.ndim == 5:
        samples, reference = (x.transpose(1, 2).flatten(0, 1) for x in (samples, reference))
    sigma = 1.5 if min(samples.shape[-2:]) > 22 else 0.5
    value = structural_similarity_index_measure(samples, reference, sigma=sigma, data_range=1.0)
    assert isinstance(value, Tensor)
    return value.item()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images in [-1, 1] classified as their label."""
    return (model(images).argmax(1) == labels).float().mean().item()


def class_accuracy(judge: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Share of samples (in [0, 1]) that the classifier takes for their label."""
    return accuracy(judge, samples * 2 - 1, labels)


class FrechetDistance:
    """From real data in [-1, 1] to sets of samples in [0, 1], in a judge's feature space; the data is read once."""

    def __init__(self, judge: nn.Module, real: Tensor) -> None:
        features = _Features(judge, real[:1])
        self._metric = FrechetInceptionDistance(feature=features, normalize=True, reset_real_features=False)
        self._metric.update(real / 2 + 0.5, real=True)

    def __call__(self, samples: Tensor) -> float:
        self._metric.reset()
        self._metric.update(samples, real=False)
        distance: float = self._metric.compute().item()
        return max(distance, 0.0)


class _Features(nn.Module):
    """The judge's, as torchmetrics asks for them."""

    def __init__(self, judge: nn.Module, one: Tensor) -> None:
        super().__init__()
        self.judge = judge
        with torch.no_grad():
            self.num_features = judge.features(one).shape[1]  # type: ignore[operator]

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        features: Tensor = self.judge.features(samples * 2 - 1)  # type: ignore[operator]
        return features
