"""The original repositories' loops, without a scheduler: the counts are those of the policy, from the first run on."""

import pytest
import torch

import skipcache
from tests.models.originals import draw
from tests.models.reuse import count, watched
from tests.models.sampling import build

STEPS = 12


def called(name, model, kwargs):
    """The model as its repository's loop calls it: DiT and Latte with guidance in one call of two equal halves."""
    if name == "original_dit":
        return lambda x, t: model.forward_with_cfg(x, t, kwargs["y"], 2.0)
    if name == "original_pixart":
        return lambda x, t: model(x, t, kwargs["y"], mask=kwargs["mask"], data_info={})
    return lambda x, t: model(x, t, y=kwargs["y"])


@torch.no_grad()
def run(name, model, share, seed):
    """DDIM, and DDPM with all of its noise; `share` of it."""
    generator, (kwargs, _) = torch.Generator().manual_seed(seed), draw(model)
    denoise = called(name, model, kwargs)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    times = torch.linspace(999, 0, STEPS).long().tolist()
    x = torch.randn(kwargs["x"][:1].shape, generator=generator).repeat(2, *[1] * (kwargs["x"].ndim - 1))
    for i, t in enumerate(times):
        now, after = kept[t], kept[times[i + 1]] if i + 1 < STEPS else torch.tensor(1.0)
        e = denoise(x, torch.full((2,), t))
        data = (x - (1 - now) ** 0.5 * e) / now**0.5
        new = share * ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
        noise = torch.randn(x[:1].shape, generator=generator)
        x = after**0.5 * data + (1 - after - new**2).clamp(0) ** 0.5 * e + new * noise


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["ddim", "ddpm"])
@pytest.mark.parametrize("name", ["original_dit", "original_pixart", "original_latte"])
def test_counts_are_those_of_the_policy(name, share, engine):
    model = skipcache.accelerate(build(name), interval=3, engine=engine)
    for seed in (0, 1):
        with watched(lambda: None) as log:
            run(name, model, share, seed)
        assert count(log, "cached") == 8 and skipcache.report(model).full_at == (0, 3, 6, 9)
    assert skipcache.report(model).reasons == ()
