"""What is told of a method at a target: one flat row, for JSON, tables and the picture."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.sampling.metrics import FrechetDistance, class_accuracy, compare

OVER = 1.005  # of the budget: beyond it a row has more compute than skipcache's


@dataclass
class Row:
    """`psnr` is against the plain run of as many steps, `psnr_fine` against one of 400; errors are standard errors.

    `seed_psnr` and `seed_psnr_fine` have the mean of each seed. `over_budget`: the method's FLOPs are more than
    skipcache's at this target. `error` says why a method did not run; then the numbers are None.
    """

    method: str
    label: str
    library: str
    target: float | None
    note: str = ""
    error: str | None = None
    setting: dict[str, Any] = field(default_factory=dict)
    usage: str = ""
    lines: int | None = None
    flops: int | None = None
    flop_speedup: float | None = None
    blocks: float | None = None
    over_budget: bool = False
    extra_bytes: int | None = None
    speedup: float | None = None
    ratios: tuple[float, ...] = ()
    psnr: float | None = None
    psnr_error: float | None = None
    seed_psnr: tuple[float, ...] = ()
    ssim: float | None = None
    psnr_fine: float | None = None
    psnr_fine_error: float | None = None
    seed_psnr_fine: tuple[float, ...] = ()
    frechet: float | None = None
    class_accuracy: float | None = None

    @property
    def is_favoured(self) -> bool:
        """It has more compute than skipcache's, and is not the rival, which is given more."""
        return self.over_budget and self.library != ""


@dataclass(frozen=True)
class Judge:
    """The plain samples by seed, those of 400 steps (None for a sampler that draws noise), and the real data."""

    settings: PeersSettings
    plain: list[Tensor]
    fine: list[Tensor] | None
    real: Tensor
    labels: Tensor  # of one run
    classifier: nn.Module

    def judge(self, row: Row, samples: list[Tensor]) -> None:
        """Fills in what the samples, by seed, are worth."""
        every = torch.cat(samples)
        other_noise = self.settings.scheduler in STOCHASTIC and "steps" in row.setting
        if row.method and not other_noise:
            found = compare(every, torch.cat(self.plain)).row()
            row.psnr, row.psnr_error, row.ssim = found["psnr"], found["psnr_error"], found["ssim"]
            row.seed_psnr = _by_seed(samples, self.plain)
        if self.fine is not None:
            found = compare(every, torch.cat(self.fine)).row()
            row.psnr_fine, row.psnr_fine_error = found["psnr"], found["psnr_error"]
            row.seed_psnr_fine = _by_seed(samples, self.fine)
        row.class_accuracy = class_accuracy(self.classifier, every, self.labels.repeat(len(samples)))
        row.frechet = None if self._frechet is None else self._frechet(every)

    @cached_property
    def _frechet(self) -> FrechetDistance | None:
        return FrechetDistance(self.classifier, self.real) if hasattr(self.classifier, "features") else None


def _by_seed(samples: list[Tensor], reference: list[Tensor]) -> tuple[float, ...]:
    found = (compare(x, y).row()["psnr"] for x, y in zip(samples, reference))
    return tuple(psnr for psnr in found if psnr is not None)


def median(values: tuple[float, ...]) -> float | None:
    return statistics.median(values) if values else None
