"""`shapes-judge`: reads a scene of two shapes and its caption; judge and caption encoder of `pixart-shapes`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipcache.benchmarks.references.data.captions import WIDTH
from skipcache.benchmarks.references.data.shapes import captions, draw
from skipcache.benchmarks.references.judges.captions import CaptionJudge, judge_task, load_caption_judge
from skipcache.benchmarks.training.task import Recipe, Task

NAME = "shapes-judge"


def build() -> CaptionJudge:
    tower = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 48, 3, padding=1, stride=2),
        nn.GELU(),
        nn.Conv2d(48, 64, 3, padding=1, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(64 * 16, 128),
        nn.GELU(),
        nn.Linear(128, WIDTH),
    )
    return CaptionJudge(captions(), tower)


def task() -> Task:
    """Every batch is drawn anew: no scene is seen twice."""

    def scenes(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(len(captions()), (batch,), generator=generator)
        return draw(labels, generator), labels

    return judge_task(NAME, build, scenes, scenes, Recipe(steps=2500, batch=128, lr=2e-3, warmup=100, ema=0.99))


def load_judge() -> CaptionJudge:
    return load_caption_judge(NAME, build)
