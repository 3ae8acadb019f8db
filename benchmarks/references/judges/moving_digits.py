"""`moving-digits-judge`: reads a video of a digit and its caption; judge and caption encoder of `latte-digits`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.moving_digits import captions, draw
from skipcache.benchmarks.references.judges.captions import CaptionJudge, judge_task, load_caption_judge
from skipcache.benchmarks.training.task import Recipe, Task

NAME = "moving-digits-judge"


def build() -> CaptionJudge:
    tower = nn.Sequential(
        nn.Conv3d(1, 24, (1, 4, 4), padding=(0, 1, 1), stride=(1, 2, 2)),
        nn.GELU(),
        nn.Conv3d(24, 48, 3, padding=1, stride=2),  # (N, 48, 4, 4, 4)
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(48 * 4**3, 128),
        nn.GELU(),
        nn.Linear(128, WIDTH),
    )
    return CaptionJudge(captions(), tower)


def task() -> Task:
    """Every batch is drawn anew; the held-out videos are of handwriting that no batch shows."""

    def videos(generator: torch.Generator, batch: int, held_out: bool = False) -> tuple[Tensor, Tensor]:
        labels = torch.randint(len(captions()), (batch,), generator=generator)
        return draw(labels, generator, held_out), labels

    def unseen(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        return videos(generator, batch, held_out=True)

    return judge_task(NAME, build, videos, unseen, Recipe(steps=2000, batch=96, lr=2e-3, warmup=100, ema=0.99))


def load_judge() -> CaptionJudge:
    return load_caption_judge(NAME, build)
