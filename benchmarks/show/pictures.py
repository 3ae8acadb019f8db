"""Samples as pictures: side by side, in a grid under their captions, and as an animated GIF where they are videos."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

FRAME_MS = 160  # a second for 6 frames
STILLS = 3  # frames of a video that are enough to see it move


def is_video(samples: Tensor) -> bool:
    """(N, C, frames, H, W), where images are (N, C, H, W)."""
    return samples.ndim == 5


def stills(samples: Tensor, count: int = 10) -> Tensor:
    """The first images, or the first, middle and last frame of the first videos: at most (count, C, H, W)."""
    if not is_video(samples):
        return samples[:count]
    chosen = torch.linspace(0, samples.shape[2] - 1, STILLS).round().long()
    return samples[: count // STILLS, :, chosen].transpose(1, 2).flatten(0, 1)


def strip(images: Tensor) -> Tensor:
    """Side by side: (N, C, H, W) -> (H, N * W, C), with a gap of one white pixel."""
    white = 0.0 if images.shape[1] == 1 else 1.0  # ink is drawn dark on white
    padded = torch.nn.functional.pad(images, (0, 1), value=white)
    return torch.cat(list(padded), dim=2)[:, :, :-1].permute(1, 2, 0)


def show(axis: Axes, image: Tensor, cmap: str = "gray_r") -> None:
    """An (H, W, C) image in [0, 1] without a frame; `cmap` colours those of one channel."""
    axis.imshow(image.numpy(), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_grid(path: Path, samples: Tensor, names: Sequence[str]) -> list[Path]:
    """Samples in [0, 1] under their names: `path`.png, and for videos, whose stills it shows, `path`.gif."""
    png, gif = path.with_suffix(".png"), path.with_suffix(".gif")
    if not is_video(samples):
        _grid([strip(sample[None]) for sample in samples], names).savefig(png)
        return [png]
    _grid([strip(stills(sample[None])) for sample in samples], names).savefig(png)
    write_gif(gif, [_grid([strip(frame[None]) for frame in frames], names) for frames in samples.unbind(2)])
    return [png, gif]


def _grid(images: Sequence[Tensor], names: Sequence[str], columns: int = 6) -> Figure:
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 1.9 * rows * images[0].shape[0] / images[0].shape[1] + 0.3 * rows), dpi=100)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, image, name in zip(axes, images, names):
        show(axis, image)
        axis.set_title(textwrap.fill(name, 24), fontsize=7)
    for axis in list(axes)[len(images) :]:
        axis.set_visible(False)
    return figure


def write_gif(path: Path, figures: Sequence[Figure]) -> None:
    """One figure per frame, over and over."""
    pages = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pages.append(Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB"))
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=FRAME_MS, loop=0)
