"""One way to sample from any model of the tests, and what is compared before and after."""

import torch
from torch import Tensor

from skipcache.verify import tensors_of
from tests.originals import OriginalDiT, OriginalLatte, OriginalPixArt, Yesterday, draw
from tests.zoo import ZOO, randomise

FAMILIES = ["dit", "pixart_alpha", "pixart_sigma", "latte", "sd3", "flux_dev", "cogvideox", "wan"]
ORIGINALS = {
    "original_dit": OriginalDiT,
    "original_pixart": OriginalPixArt,
    "original_latte": OriginalLatte,
    "original_latte_pairs": lambda: OriginalLatte(paired=True),
    "yesterday": Yesterday,
    "yesterday_in_place": lambda: Yesterday(inplace=True),
}
MODELS = [*FAMILIES, *ORIGINALS]


def build(name, seed=0):
    if name in ORIGINALS:
        torch.manual_seed(seed)
        return randomise(ORIGINALS[name](), seed).eval().requires_grad_(False)
    return ZOO[name].build(seed)


def inputs(name, model, seed=0):
    """The arguments of one call, the name of the sample and that of the timestep."""
    if name in ORIGINALS:
        kwargs, timestep = draw(model, seed)
        return kwargs, next(iter(kwargs)), timestep
    kwargs = dict(ZOO[name].inputs(seed))
    timestep = next(n for n in ("timestep", "timesteps") if n in kwargs)
    kwargs.pop(timestep)
    return kwargs, "hidden_states", timestep


def sample(name, model, steps=7, seed=0, call=None):
    """A little Euler sampler over falling timesteps; returns the outputs of all steps."""
    kwargs, x_name, t_name = inputs(name, model, seed)
    x, outputs = kwargs.pop(x_name), []
    integer = name in ("dit", "pixart_alpha", "pixart_sigma", "latte", "cogvideox") or name in ORIGINALS
    for t in torch.linspace(0.95, 0.05, steps):
        timestep = torch.full((len(x),), float(t) * 1000).long() if integer else torch.full((len(x),), float(t))
        with torch.no_grad():
            output = (call or model)(**{x_name: x, t_name: timestep, **kwargs})
        e = first(output)
        outputs.append(e)
        x = x - e[tuple(map(slice, x.shape))] / steps
    return outputs


def first(output) -> Tensor:
    return next(iter(tensors_of(output)))


def equal(ones, others):
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def state(model):
    """Every module's attributes, by identity: hooks, buffers, instance methods, patched classes."""
    seen = {}
    for path, module in model.named_modules():
        parts = {k: (id(v), list(v) if isinstance(v, dict) else None) for k, v in module.__dict__.items()}
        seen[path] = (type(module), dict(type(module).__dict__), parts)
    return seen
