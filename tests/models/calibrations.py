"""Runs to calibrate on: a sampler with guidance, and `calibrate` with few steps."""

from dataclasses import dataclass
from functools import partial

import torch

import skipcache
from tests.models.sampling import build, sample

STEPS = 12


def calibrated(name="original_dit", **options):
    model = build(name)
    if not {"speedup", "max_error", "full_steps"} & options.keys():
        options["full_steps"] = 5
    return model, skipcache.calibrate(model, partial(sample, name, model, STEPS, 5), progress=False, **options)


@dataclass(frozen=True)
class Guided:
    """A linear sampler with guidance, of two rows for each sample or of two calls; `noise` is drawn at each step."""

    model: torch.nn.Module
    batched: bool = True
    noise: float = 0.0
    guidance: float = 4.0

    @torch.no_grad()
    def run(self, seed=3, keep=None):
        generator = torch.Generator().manual_seed(seed)
        x, labels = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([1, 2])
        null, before, states = torch.full((2,), 4), None, []
        for t in torch.linspace(990, 0, STEPS):
            states.append(x)
            if self.batched:
                both = self.model(torch.cat([x, x]), t.expand(4), torch.cat([null, labels]))[:, :4]
                without, asked = both.chunk(2)
            else:
                without, asked = (self.model(x, t.expand(2), y)[:, :4] for y in (null, labels))
            e = without + self.guidance * (asked - without)
            x = 0.98 * x - 0.3 * e + (0.0 if before is None else 0.05 * before)
            x, before = x + self.noise * torch.randn(x.shape, generator=generator), e
        return states
