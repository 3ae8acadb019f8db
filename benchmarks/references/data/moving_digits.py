"""Videos with captions: scikit-learn's handwritten digits, moving over 16x16 pixels for 8 frames. No download."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from skipcache.benchmarks.references.data.captions import Captions
from skipcache.benchmarks.references.data.digits import digits, split

SIZE, FRAMES, DIGIT = 16, 8, 8
ROOM = SIZE - DIGIT  # how far a digit can move, in pixels
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slowly": 0.5, "quickly": 1.0}  # pixels per frame
TRACK = 4  # pixels from one place to start at to the next
# x and y of what moves in a frame
MOTIONS = {"standing still": (0.0, 0.0)} | {
    f"moving {direction} {speed}": (x * pixels, y * pixels)
    for direction, (x, y) in DIRECTIONS.items()
    for speed, pixels in SPEEDS.items()
}
PER_CAPTION = 80


@cache
def captions() -> Captions:
    """90 of them, such as "seven moving left slowly"; the attributes are the digit and how it moves."""
    found = [((digit, motion), f"{DIGITS[digit]} {name}") for motion, name in enumerate(MOTIONS) for digit in range(10)]
    # Shuffled, so that the first few are a fair selection.
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    attributes = torch.tensor([found[k][0] for k in order])
    return Captions(tuple(found[k][1] for k in order), attributes, (len(DIGITS), len(MOTIONS)))


@cache
def videos(seed: int = 0, per_caption: int = PER_CAPTION) -> tuple[Tensor, Tensor]:
    """(videos (N, 1, 8, 16, 16) in [-1, 1], number of each one's caption (N,)), the same for a seed."""
    labels = torch.arange(len(captions())).repeat(per_caption)
    return draw(labels, torch.Generator().manual_seed(seed)), labels


def draw(labels: Tensor, generator: torch.Generator, held_out: bool = False) -> Tensor:
    """One video per label: a random image of the digit, which starts where there is room for the motion."""
    digit, motion = captions().attributes[labels].T
    images = _handwriting(digit, generator, held_out)  # (N, 1, 8, 8)
    velocity = torch.tensor(list(MOTIONS.values()))[motion]  # (N, 2)
    path = velocity * (FRAMES - 1)
    choices = ((ROOM - path.abs()) / TRACK).long() + 1
    start = (torch.rand(path.shape, generator=generator) * choices).long() * TRACK
    start = torch.where(path < 0, ROOM - start, start)
    places = start[:, None] + velocity[:, None] * torch.arange(FRAMES)[:, None]  # (N, frames, 2)
    return _placed(images, places)


def _handwriting(digit: Tensor, generator: torch.Generator, held_out: bool) -> Tensor:
    """An image of each digit, of the classifier's training or held-out part."""
    images, labels = _part(held_out)
    chance = (labels == digit[:, None]).float()  # (N, images)
    return images[torch.multinomial(chance, 1, generator=generator)[:, 0]]


@cache
def _part(held_out: bool) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    part = split()[1 if held_out else 0]
    return images[part], labels[part]


def _placed(images: Tensor, places: Tensor) -> Tensor:
    """Each image on an empty canvas, its corner at `places`, fractions of a pixel included."""
    n = len(images)
    theta = torch.zeros(n * FRAMES, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = SIZE / DIGIT
    middle = places.flatten(0, 1) + DIGIT / 2  # where the image's middle goes on the canvas
    theta[:, :, 2] = (SIZE / 2 - middle) / (DIGIT / 2)
    grid = F.affine_grid(theta, [n * FRAMES, 1, SIZE, SIZE], align_corners=False)
    ink = images.repeat_interleave(FRAMES, dim=0) + 1  # 0 is empty, as outside the image
    frames = F.grid_sample(ink, grid, padding_mode="zeros", align_corners=False)
    return frames.view(n, FRAMES, 1, SIZE, SIZE).transpose(1, 2) - 1  # (N, 1, frames, 16, 16)
