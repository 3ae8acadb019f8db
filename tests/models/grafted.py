"""Models with skip branches, and branches as if they had been trained."""

import torch

import skipcache
from skipcache.branches.modules import branches_of
from tests.models.sampling import build


def trained(model, seed=0, scale=0.3):
    """The branches as if they had been trained: no weight is zero, no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in branches_of(model).named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.1 * noise if name.endswith("norm.weight") else noise * scale / p.shape[-1] ** 0.5)
    return model.requires_grad_(False)


def grafted(name, fuse, **options):
    return trained(skipcache.graft(build(name), fuse, **options))
