"""Scenes of two shapes on grey, 16x16 RGB, with captions: drawn by formula, in any number. No download."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from skipcache.benchmarks.references.data.captions import Captions

SIZE = 16
SIZES = {"large": 3.5, "small": 2.2}  # half the extent, in pixels
COLOURS = {"red": (0.85, 0.15, 0.15), "green": (0.15, 0.65, 0.2), "blue": (0.15, 0.3, 0.85), "yellow": (0.95, 0.8, 0.1)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = {"left of": (0, False), "right of": (0, True), "above": (1, False), "below": (1, True)}
OBJECTS = [(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES]
PER_CAPTION = 16


@cache
def captions() -> Captions:
    """1152 of them; one scene has one caption, since the object that stands first in `OBJECTS` is named first.

    The attributes are: beside or above each other; size, colour and shape of the left or upper object; of the other.
    """
    found = []
    for i, first in enumerate(OBJECTS):
        for j, second in enumerate(OBJECTS[i:], i):
            for relation, (axis, swapped) in RELATIONS.items():
                if i == j and swapped:
                    continue
                text = f"{' '.join(first)} {relation} {' '.join(second)}"
                leading, trailing = (j, i) if swapped else (i, j)
                found.append((text, (axis, *_values(leading), *_values(trailing))))
    # Shuffled, so that the first few are a fair selection.
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    texts = tuple(found[k][0] for k in order)
    kinds = (len(SIZES), len(COLOURS), len(SHAPES))
    return Captions(texts, torch.tensor([found[k][1] for k in order]), (2, *kinds, *kinds))


def _values(index: int) -> tuple[int, int, int]:
    size, rest = divmod(index, len(COLOURS) * len(SHAPES))
    return size, *divmod(rest, len(SHAPES))


@cache
def scenes(seed: int = 0, per_caption: int = PER_CAPTION) -> tuple[Tensor, Tensor]:
    """(scenes (N, 3, 16, 16) in [-1, 1], number of each one's caption (N,)), the same for a seed."""
    labels = torch.arange(len(captions())).repeat(per_caption)
    return draw(labels, torch.Generator().manual_seed(seed)), labels


def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
    """One scene per label; place, size, colour and the grey behind vary a little."""

    def varied(spread: float, *shape: int) -> Tensor:
        return spread * (2 * torch.rand(len(labels), *shape, generator=generator) - 1)

    axis, *values = captions().attributes[labels].T
    image = (0.85 + varied(0.08, 1, 1, 1)).expand(-1, 3, SIZE, SIZE)
    for half, (size, colour, shape) in zip((4.0, 12.0), (values[:3], values[3:])):
        extent = torch.tensor(list(SIZES.values()))[size] * (1 + varied(0.06))
        along, across = half + varied(0.3), 8 + varied(2.0)
        centre = torch.stack([along, across], dim=1)  # (N, 2), x and y of scenes side by side
        centre = torch.where(axis[:, None] == 0, centre, centre.flip(1))
        ink = (torch.tensor(list(COLOURS.values()))[colour] + varied(0.08, 3)).clamp(0, 1)
        covered = _covered(centre, extent, shape)[:, None]  # (N, 1, 16, 16)
        image = covered * ink[:, :, None, None] + (1 - covered) * image
    return image * 2 - 1


def _covered(centre: Tensor, extent: Tensor, shape: Tensor) -> Tensor:
    """Share of each pixel inside the shape, (N, 16, 16), from the signed distance to its edge."""
    pixel = torch.arange(SIZE) + 0.5
    x = pixel[None, None, :] - centre[:, 0, None, None]  # (N, 1, 16)
    y = pixel[None, :, None] - centre[:, 1, None, None]  # (N, 16, 1)
    r = extent[:, None, None]
    circle = (x.square() + y.square()).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - 0.9 * r
    # Apex above, base below: sides fall two down for one across.
    triangle = torch.maximum((2 * x.abs() - y - r) / 5**0.5, y - r)
    distance = torch.stack(torch.broadcast_tensors(circle, square, triangle))  # (3, N, 16, 16)
    own = distance.gather(0, shape[None, :, None, None].expand(1, -1, SIZE, SIZE))[0]
    return (0.5 - own).clamp(0, 1)
