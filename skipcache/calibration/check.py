"""How far new samples stray: cached ones beside uncached ones, on seeds and prompts that nothing was fitted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

HELD = ("images", "frames", "audios", "sample")  # where pipelines put their samples


def strayed(cached: Any, uncached: Any) -> list[float]:
    """By sample, the norm of the difference over that of the uncached one; what `check` returned, both times.

    Raises TypeError for what holds no samples, ValueError where the two hold others, or values that are not finite.
    """
    ours, theirs = samples_of(cached), samples_of(uncached)
    pairs = list(zip(ours, theirs))
    if not pairs or len(ours) != len(theirs) or any(a.shape != b.shape for a, b in pairs):
        raise ValueError("check: expected the samples, as many and of the same shapes each time; seed inside of it")
    found = [_ratio(float((a - b).norm()), float(b.norm())) for a, b in pairs]
    if not all(map(math.isfinite, found)):
        raise ValueError("check: its samples hold values that are not finite")
    return found


def samples_of(value: Any) -> list[Tensor]:
    """Each by itself, float64 on the host: of a tensor or array the samples come first; a list holds one each, or
    several; of a pipeline's output its images, frames or audios."""
    if isinstance(value, (Tensor, np.ndarray)):
        whole = torch.as_tensor(value).detach().to("cpu", torch.float64)
        if whole.ndim < 2:
            raise TypeError(f"check: expected samples of two dimensions or more, got the shape {tuple(whole.shape)}")
        return list(whole)
    if isinstance(value, (list, tuple)):
        return [sample for part in value for sample in _part(part)]
    held = next((getattr(value, name) for name in HELD if hasattr(value, name)), None)
    if held is None:
        raise TypeError(f"check: expected it to return its samples, a tensor or a pipeline's output, got {value!r:.80}")
    return samples_of(held)


def quantile(errors: Sequence[float], level: float) -> float:
    """What a new error stays below with probability `level`, if it comes from where `errors` come from.

    The k-th smallest of n, k = ceil((n + 1) * level): no more is assumed (split conformal prediction). Raises
    ValueError where n errors are too few for it.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    k = math.ceil((len(errors) + 1) * level - 1e-9)
    if k > len(errors):
        least = math.ceil(level / (1 - level) - 1e-9)
        raise ValueError(
            f"level: {level:g} needs {least} checked samples or more, got {len(errors)}; pass calibrate a `check` that "
            f"samples so many"
        )
    return sorted(errors)[max(k, 1) - 1]


def _part(part: Any) -> list[Tensor]:
    """A list's item: a batch, where it has four dimensions or more; a picture; a list of pictures; an output."""
    if isinstance(part, (list, tuple)):
        return [torch.as_tensor(np.asarray(part, dtype=np.float64))]
    if hasattr(part, "__array_interface__"):  # as PIL's pictures have
        part = np.asarray(part, dtype=np.float64)
    if not isinstance(part, (Tensor, np.ndarray)):
        return samples_of(part)
    whole = torch.as_tensor(part).detach().to("cpu", torch.float64)
    return list(whole) if whole.ndim > 3 else [whole]


def _ratio(off: float, of: float) -> float:
    return 0.0 if off == 0 else off / of if of else math.inf
