"""`dit-digits-add`: the shipped dit-digits with `add` branches, trained in Skip-DiT's two stages (arXiv 2411.17616).

First the branches alone, on frozen weights, then everything. What is drawn to what: cached steps, on a deep feature
1 to 5 steps old, and full ones, to the outputs of the plain model on its own runs. The second stage has the usual loss
on the data beside it, which keeps the model where the data is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

import skipcache
from skipcache import training
from skipcache.benchmarks.references import dit_digits
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.references.judges.digits import load_judge
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.losses import denoising_loss
from skipcache.benchmarks.training.task import Recipe, Task

RUNS = 8
INTERVAL = 6

Loss = Callable[[nn.Module, torch.Generator, int], Tensor]


def reference() -> Reference:
    plain = dit_digits.reference()
    recipe = Recipe(steps=2000, batch=64, lr=2e-4, warmup=100, ema=0.995)
    return Reference("dit-digits-add", build, plain.data, load_judge, recipe, stages)


def build() -> nn.Module:
    return skipcache.graft(dit_digits.build(), "add").eval()


def stages(reference: Reference) -> Task:
    distillation, usual = distill(reference), denoising_loss(reference.data())

    def graft() -> nn.Module:
        model = skipcache.graft(dit_digits.reference().load(), "add").eval()
        training.freeze_backbone(model)
        return model

    def both(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        return distillation(model, generator, batch) + usual(model, generator, batch)

    def everything(model: nn.Module) -> Task:
        model.requires_grad_(True)
        return Task(reference.name, lambda: model, both, reference.score, reference.recipe, show=reference.show)

    recipe = Recipe(steps=2000, batch=20, lr=2e-3, warmup=100, ema=0.995)
    return Task(f"{reference.name}-branches", graft, distillation, reference.score, recipe, everything)


def distill(reference: Reference) -> Loss:
    """On recorded runs of the plain model, guidance and all; a batch is all images of a run."""

    @cache
    def runs() -> list[training.Run]:
        plain, data = dit_digits.reference().load(), reference.data()
        pipe = reference.pipeline(plain)
        labels = balanced(20, data.classes)
        samplings = [partial(pipe, data, labels, seed=1000 + seed) for seed in range(RUNS)]
        return [training.record_run(plain, sampling) for sampling in samplings]

    def loss(model: nn.Module, generator: torch.Generator, batch: int) -> Tensor:
        run = runs()[int(torch.randint(RUNS, (), generator=generator))]
        return training.distillation_loss(model, run, interval=INTERVAL, generator=generator)

    return loss
