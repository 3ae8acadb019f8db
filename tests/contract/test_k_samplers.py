"""k-diffusion's samplers over wrappers that take sigma: no pass takes another one's features, and savings stay."""

import pytest
import torch
from torch import nn

import skipcache
from tests.models.ksamplers import SAMPLERS, karras
from tests.models.pipelines import denoiser, randn
from tests.models.reuse import count, watched, wrong

pytestmark = pytest.mark.thorough

STEPS = 10


class EDM(nn.Module):
    """From sigma to the model's own sample and timestep, and from its noise to data."""

    def __init__(self, inner):
        super().__init__()
        self.inner_model = inner

    def forward(self, x, sigma, class_labels):
        sigma = sigma[:, None, None, None]
        t = (sigma.flatten().log() / 4 * 100 + 500).clamp(0, 999)
        scaled = x / (1 + sigma**2) ** 0.5
        return x - sigma * self.inner_model(scaled, timestep=t, class_labels=class_labels, return_dict=False)[0]


def made():
    return EDM(denoiser("dit", num_layers=6, in_channels=4, out_channels=4, num_embeds_ada_norm=1000)).eval()


def run(model, kind, batched, seed=0):
    """With guidance by one call of two halves, or by two calls."""
    cond, uncond = torch.tensor([1, 2]), torch.tensor([9, 9])
    both, generator = torch.cat([uncond, cond]), torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def denoise(x, sigma):
        sigma = sigma.expand(len(x))
        if batched:
            outputs = model(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        else:
            outputs = [model(x, sigma, labels) for labels in (uncond, cond)]
        return outputs[0] + 2.0 * (outputs[1] - outputs[0])

    sigmas = karras(STEPS)
    x = sigmas[0] * randn(2, 4, 8, 8, seed=seed)
    return SAMPLERS[kind](denoise, x, sigmas, lambda shape: torch.randn(shape, generator=generator))


# By sampler, the evaluations and those of them that may be cached, for each lane. Where no scheduler is known, an
# evaluation at the time of the one before is full: Heun's first of each step, and that of the ancestral 2S.
COUNTS = {
    "euler": (10, 6),
    "heun": (19, 6),
    "dpm_2": (19, 12),
    "euler_ancestral": (10, 6),
    "dpmpp_2s_ancestral": (19, 6),
    "dpmpp_2m": (10, 6),
}


@pytest.mark.parametrize("batched", [True, False], ids=["one call", "two calls"])
@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_counts_are_those_of_the_policy(engine, kind, batched):
    model, lanes = made(), 1 if batched else 2
    plain = run(model, kind, batched)
    skipcache.accelerate(model.inner_model, interval=1, engine=engine)
    assert torch.equal(run(model, kind, batched), plain)
    skipcache.restore(model.inner_model)
    skipcache.accelerate(model.inner_model, interval=3, engine=engine)
    calls = [-1]
    model.inner_model.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    for seed in (0, 1):
        calls[0] = -1
        with watched(lambda: calls[0] % lanes) as log:
            run(model, kind, batched, seed)
        evaluations, cached = COUNTS[kind]
        assert len(log) == lanes * evaluations and not wrong(log)
        assert count(log, "cached") == lanes * cached, "in the first run as in the second"
    assert skipcache.report(model.inner_model).reasons == ()
