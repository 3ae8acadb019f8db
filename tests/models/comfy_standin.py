"""A stand-in for what ComfyUI promises to wrappers, for machines without ComfyUI.

Clones of a patcher share one module, which is in training mode. Options are copied and merged anew in each call; conds
get a fresh id in each run. Wrappers stand around the sampler and around each call. Sigmas of rectified flow.
"""

from copy import deepcopy
from itertools import pairwise
from uuid import uuid4

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, vec, context):
        return x + self.out(torch.tanh(self.into(self.norm(x) + vec + context)))


class Denoiser(nn.Module):
    """Called as ComfyUI calls its models. A patch may replace a block's input, as ComfyUI's patches do."""

    def __init__(self, depth=6, width=8):
        super().__init__()
        self.dtype = torch.float32
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x, timesteps, context=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        vec = torch.sin(timesteps.float()[:, None, None] * torch.arange(1.0, 9.0))
        h = self.first(x.flatten(2).transpose(1, 2))
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.blocks):
            h = replace[i](h) if i in replace else block(h, vec, context)
        return self.last(h).transpose(1, 2).reshape(x.shape)


class Executor:
    def __init__(self, original, wrappers, class_obj=None):
        self.original, self.wrappers, self.class_obj = original, list(wrappers), class_obj

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](Executor(self.original, self.wrappers[1:], self.class_obj), *args, **kwargs)


def wrappers_in(options, kind):
    return [wrapper for found in options.get("wrappers", {}).get(kind, {}).values() for wrapper in found]


def copied(options):
    """Nested dicts and lists are new; what is in them is not."""
    if isinstance(options, dict):
        return {key: copied(value) for key, value in options.items()}
    return list(options) if isinstance(options, list) else options


class Flow:
    """The model's `model_sampling`: rectified flow, with a shift."""

    def timestep(self, sigma):
        return sigma * 1000

    def percent_to_sigma(self, percent):
        t = 1 - percent
        return 3 * t / (1 + 2 * t)

    def noise_scaling(self, sigma, noise, image, max_denoise=False):
        return sigma.view(-1, *[1] * (noise.ndim - 1)) * noise + (1 - sigma.view(-1, *[1] * (noise.ndim - 1))) * image


class Base:
    """ComfyUI's BaseModel: `apply_model` gives the denoised sample."""

    def __init__(self, model):
        self.diffusion_model, self.model_sampling = model, Flow()

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        call = Executor(self._apply, wrappers_in(transformer_options, "apply_model"), self)
        return call(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _apply(self, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        given = {"context": c_crossattn, "control": control, "transformer_options": transformer_options}
        output = self.diffusion_model(x, self.model_sampling.timestep(t).float(), **given, **kwargs).float()
        return x - output * t.view(-1, 1, 1, 1)


class Patcher:
    """A ModelPatcher."""

    def __init__(self, base):
        self.model, self.model_options, self.wrappers = base, {"transformer_options": {}}, {}

    def clone(self):
        other = Patcher(self.model)
        other.model_options = deepcopy(self.model_options)
        other.wrappers = {kind: {k: list(w) for k, w in found.items()} for kind, found in self.wrappers.items()}
        return other

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind, key):
        self.wrappers.get(kind, {}).pop(key, None)

    def get_wrappers(self, kind, key):
        return self.wrappers.get(kind, {}).get(key, [])


class Guider:
    """A CFGGuider with two conds, in one batch or one after the other."""

    def __init__(self, patcher, texts, cfg, batched):
        self.inner_model, self.model_options = patcher.model, copied(patcher.model_options)
        self.model_options["transformer_options"].setdefault("wrappers", {}).update(copied(patcher.wrappers))
        self.conds, self.cfg, self.batched = [(text, uuid4()) for text in texts], cfg, batched

    def __call__(self, x, sigma, model_options):
        groups = [[0, 1]] if self.batched else [[0], [1]]
        outputs = [part for group in groups for part in self.call(x, sigma, model_options, group)]
        return outputs[1] + self.cfg * (outputs[0] - outputs[1])

    def call(self, x, sigma, model_options, group):
        options = copied(model_options["transformer_options"])
        options.update(cond_or_uncond=group[:], uuids=[self.conds[i][1] for i in group], sigmas=sigma)
        text = torch.cat([self.conds[i][0].expand(len(x), -1, -1) for i in group])
        many = len(group)
        given = {"c_crossattn": text, "transformer_options": options}
        return self.inner_model.apply_model(torch.cat([x] * many), torch.cat([sigma] * many), **given).chunk(many)

    def sample(self, noise, sampler, sigmas):
        options = copied(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        run = Executor(sampler, wrappers_in(options["transformer_options"], "sampler_sample"), sampler)
        return run(self, sigmas, {"model_options": options, "seed": 1}, None, noise, None, None, True)


def euler(guider, sigmas, extra_args, callback, noise, *_):
    x = noise * sigmas[0]
    for now, then in pairwise(sigmas):
        x = x + (x - guider(x, now * x.new_ones([len(x)]), **one(extra_args))) / now * (then - now)
    return x


def heun(guider, sigmas, extra_args, callback, noise, *_):
    x = noise * sigmas[0]
    for now, then in pairwise(sigmas):
        d = (x - guider(x, now * x.new_ones([len(x)]), **one(extra_args))) / now
        if then > 0:
            on = x + d * (then - now)
            d = (d + (on - guider(on, then * x.new_ones([len(x)]), **one(extra_args))) / then) / 2
        x = x + d * (then - now)
    return x


def midpoint(guider, sigmas, extra_args, callback, noise, *_):
    x = noise * sigmas[0]
    for now, then in pairwise(sigmas):
        d = (x - guider(x, now * x.new_ones([len(x)]), **one(extra_args))) / now
        if then > 0:
            middle = (now + then) / 2
            on = x + d * (middle - now)
            d = (on - guider(on, middle * x.new_ones([len(x)]), **one(extra_args))) / middle
        x = x + d * (then - now)
    return x


def one(extra_args):
    return {"model_options": extra_args["model_options"]}


def sigmas_of(steps):
    return torch.tensor([Flow().percent_to_sigma(i / steps) for i in range(steps)] + [0.0])


def patcher(depth=6):
    torch.manual_seed(0)
    model = Denoiser(depth)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return Patcher(Base(model.requires_grad_(False)))


def sample(patcher, steps=12, sampler=euler, cfg=3.0, batched=True, seed=5, sigmas=None, texts=(1, 2)):
    draw = [torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(text)) for text in texts]
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return Guider(patcher, draw, cfg, batched).sample(
            noise, sampler, sigmas_of(steps) if sigmas is None else sigmas
        )
