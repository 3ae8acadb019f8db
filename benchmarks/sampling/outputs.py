"""What a pipeline returns, as one tensor of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = (1, 3, 4)


def as_samples(output: Any) -> Tensor:
    """(N, C, H, W), or (N, C, frames, H, W) of videos: float32 on the CPU, in [0, 1].

    Takes a pipeline's output, tensors (channels before height, frames before or after them), NumPy arrays (channels
    last), lists of them, and Pillow's images, or lists of these as videos. Raises ValueError for anything else.
    """
    output = getattr(output, "images", getattr(output, "frames", output))
    x = _channels_first(output)
    if x.ndim not in (4, 5) or not len(x):
        raise ValueError(
            "expected samples as (N, C, H, W) or (N, frames, C, H, W) from your function, "
            f"got the shape {tuple(x.shape)}; return the images of the pipeline, with output_type='pt'"
        )
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if not (x.min() >= 0 and x.max() <= 1):  # NaN fails as well
        raise ValueError(
            f"expected samples in [0, 1] from your function, got {x.min():g} to {x.max():g}; decode latents, "
            "as output_type='pt' does"
        )
    return x.cpu()


def _channels_first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        x = output.detach()
        frames_first = x.ndim == 5 and x.shape[2] in CHANNELS and x.shape[1] not in CHANNELS[:2]
        return x.transpose(1, 2) if frames_first else x
    if isinstance(output, (list, tuple)) and output:
        if isinstance(output[0], Tensor):
            return _channels_first(torch.stack(list(output)))
        output = np.stack([_array(one) for one in output])
    if isinstance(output, np.ndarray) and output.dtype.kind in "uf":
        return torch.from_numpy(output.copy()).movedim(-1, 1)
    raise ValueError(
        f"expected a tensor, an array or a list of images from your function, got {type(output).__name__}; "
        "return the images of the pipeline, with output_type='pt'"
    )


def _array(one: Any) -> np.ndarray:
    """A picture (H, W, C), or a list of them as (frames, H, W, C)."""
    if isinstance(one, (list, tuple)):
        return np.stack([_array(frame) for frame in one])
    array = np.asarray(one)
    return array[..., None] if array.ndim == 2 else array
