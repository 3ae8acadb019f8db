"""`emoji-judge`: reads an emoji and its caption; judge and text encoder of `mmdit-emoji`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.emoji import captions, labels, pictures
from skipcache.benchmarks.references.judges.captions import CaptionJudge, judge_task, load_caption_judge
from skipcache.benchmarks.training.task import Recipe, Task

NAME = "emoji-judge"
HELD_OUT = 0.1
MOVE = 2  # pixels, to each side


def build() -> CaptionJudge:
    tower = nn.Sequential(
        nn.Conv2d(3, 32, 4, padding=1, stride=2),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.GELU(),
        nn.Conv2d(64, 96, 3, padding=1, stride=2),  # (N, 96, 4, 4)
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(96 * 16, 128),
        nn.GELU(),
        nn.Linear(128, WIDTH),
    )
    return CaptionJudge(captions(), tower)


def task() -> Task:
    """There are only 2258 pictures, so each is moved, mirrored and tinted a little whenever it is shown."""
    order = torch.randperm(len(labels()), generator=torch.Generator().manual_seed(0))
    cut = round(len(order) * HELD_OUT)

    def shown(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        index = order[cut:][torch.randint(len(order) - cut, (batch,), generator=generator)]
        return varied(pictures()[index], generator), labels()[index]

    def unseen(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        index = order[: min(cut, batch)]
        return pictures()[index], labels()[index]

    return judge_task(NAME, build, shown, unseen, Recipe(steps=1500, batch=64, lr=2e-3, warmup=100, ema=0.99))


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each one moved by whole pixels on white, mirrored or not, and a little darker or lighter in each channel."""
    n, size = len(images), images.shape[-1]
    mirrored = torch.rand(n, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    canvas = F.pad(images, [MOVE] * 4, value=1.0)
    row, column = torch.randint(2 * MOVE + 1, (2, n, 1), generator=generator) + torch.arange(size)  # (n, size) each
    moved = canvas[torch.arange(n)[:, None, None], :, row[:, :, None], column[:, None, :]]  # (n, size, size, 3)
    tint = 1 + 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
    return ((moved.permute(0, 3, 1, 2) + 1) * tint - 1).clamp(-1, 1)


def load_judge() -> CaptionJudge:
    return load_caption_judge(NAME, build)
