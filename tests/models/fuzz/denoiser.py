"""A denoiser whose deep feature says which call it was computed for, so that an output shows whose feature it used.

Each row of each call has a number. The last deep block writes it into the hidden state, and the tail leaves it alone.
The rest is a real denoiser: the best one for data that is normal around a mean which the text gives. So samplers
lead it from noise to data as they would lead a trained one.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.cache_utils import CacheMixin
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.func import functional_call

import skipcache
from skipcache import Stack

CHANNELS, BODY, SPREAD = 8, 6, 0.85
STACK = Stack(tuple((f"blocks.{i}",) for i in range(4)), "hidden_states", "timestep")


@dataclass(frozen=True)
class LastTwo(skipcache.Predictor):
    """The last feature, with the number of the one before it beside its own: a forecast would have used both."""

    residual, depth = False, 2

    def weights(self, step, full_steps):
        return ()

    def predict(self, H, kept, weights):
        return (torch.cat([kept[0][0][..., : BODY + 1], kept[-1][0][..., BODY : BODY + 1]], -1),)


PREDICTORS = {"hold": skipcache.Hold(), "last two": LastTwo()}


class Numbers:
    """The numbers of the rows of the call under way: (B,)."""

    def __init__(self):
        self.now = None


class Block(nn.Module):
    """Moves the body of the hidden state a little; one that was given `numbers` writes them behind the body."""

    def __init__(self, numbers=None):
        super().__init__()
        self.mix = nn.Linear(BODY, BODY)
        self.numbers = numbers

    def forward(self, hidden_states, c):
        body, marks = hidden_states.split([BODY, 2], -1)
        body = body + 0.3 * torch.tanh(self.mix(body) + c)
        if self.numbers is not None:
            marks = self.numbers.now[:, None, None].expand_as(marks)
        return torch.cat([body, marks], -1)


def kept_of_data(t, flow):
    """How much of the data and how much of the noise is in a sample at `t` of 1000: (a, s), tensors."""
    u = t / 1000
    if flow:
        return 1 - u, u
    left = torch.exp(-(9.95 * u + 0.1) * u)  # what diffusers' linear betas leave
    return left.sqrt(), (1 - left).sqrt()


class Denoiser(nn.Module, CacheMixin):
    """forward(x, t, text) -> (noise, or with `flow` velocity; the numbers of the features used, two per row)."""

    def __init__(self, flow=False):
        super().__init__()
        self.numbers, self.flow = Numbers(), flow
        self.inlet, self.outlet = nn.Linear(CHANNELS, BODY), nn.Linear(BODY, CHANNELS)
        self.text, self.frequencies = nn.Linear(CHANNELS, BODY), nn.Parameter(torch.randn(BODY) / 50)
        self.blocks = nn.ModuleList(Block(self.numbers if i == 2 else None) for i in range(4))

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        x, t = hidden_states, timestep  # (B, T, C); (), (B,) or one per frame (B, F)
        t = torch.as_tensor(t, dtype=torch.float32).reshape(-1, 1) if not is_per_frame(t) else t
        t = t.repeat_interleave(x.shape[1] // t.shape[1], 1)[..., None]  # (B or 1, T, 1)
        words = encoder_hidden_states.mean(1, keepdim=True)  # (B, 1, C)
        c = torch.sin(t * self.frequencies) + self.text(words)
        h = torch.cat([self.inlet(x), torch.zeros(*x.shape[:2], 2)], -1)
        for block in self.blocks:
            h = block(h, c)
        a, s = kept_of_data(t, self.flow)
        off = (x - a * words) / (SPREAD * SPREAD * a * a + s * s)
        best = s * off - (words + SPREAD * SPREAD * a * off if self.flow else 0)
        return best + 0.05 * self.outlet(h[..., :BODY]), h[:, 0, BODY:]


def is_per_frame(t):
    return isinstance(t, torch.Tensor) and t.ndim == 2


class Pipe(DiffusionPipeline):
    """A pipeline that makes calls one at a time."""

    def __init__(self, transformer, scheduler):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def call(self, function):
        return function()


@lru_cache
def denoiser(engine, interval, predictor, flow):
    """An accelerated one. Its engines keep what they learned; `skipcache.reset` empties all else."""
    torch.manual_seed(0)
    model = Denoiser(flow)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["blocks.1.mix"], init_lora_weights=False), model)
    model.eval().requires_grad_(False)
    return skipcache.accelerate(model, **settings(engine, interval, predictor))


def settings(engine, interval, predictor):
    return {
        "policy": skipcache.Interval(interval),
        "engine": engine,
        "predictor": PREDICTORS[predictor],
        "stack": STACK,
    }


# States of the model other than the plain one, each for the length of one call


class Skip(ModelHook):
    def new_forward(self, module, hidden_states, *args, **kwargs):
        return hidden_states


@contextmanager
def layer_skipped(model):
    """As diffusers' skip-layer guidance does it."""
    registry = HookRegistry.check_if_exists_or_initialize(model.blocks[1])
    registry.register_hook(Skip(), "skip")
    try:
        yield
    finally:
        registry.remove_hook("skip", recurse=False)


@contextmanager
def adapter_off(model):
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


AROUND = {"layer skipped": layer_skipped, "adapter off": adapter_off}
STATES = ("layer skipped", "adapter off", "weights swapped")


def call(model, state, *args):
    """One call of the model in `state`: (output, numbers used)."""
    if state == "weights swapped":
        return functional_call(model, {name: p * 0.5 for name, p in model.named_parameters()}, args)
    with AROUND.get(state, nullcontext)(*([model] if state in AROUND else [])):
        return model(*args)
