"""Samplers as coroutines: each yields (what the model is given, t) and is sent the model's output.

A sample is (B, T, C). Where `t` comes from a scheduler it is a tensor of the scheduler's, else a number.
"""

from itertools import pairwise

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from tests.models.fuzz.denoiser import kept_of_data

TOP = 999.0


def parts(t, flow=False):
    return tuple(map(float, kept_of_data(torch.tensor(float(t)), flow)))


def falling(steps):
    return torch.linspace(TOP, 0, steps + 1).tolist()


def ddim(x, times, draw, share=0.0):
    """`share` of the noise of each step is new: 0 is DDIM, 1 is DDPM."""
    for t, after in pairwise(times):
        e = yield x, t
        (a, s), (b, r) = parts(t), parts(after)
        data = (x - s * e) / a
        new = share * r / max(s, 1e-6) * max(1 - (a / b) ** 2, 0) ** 0.5
        x = b * data + max(r**2 - new**2, 0) ** 0.5 * e + new * draw(x.shape)
    return x


def ddpm(x, times, draw):
    return (yield from ddim(x, times, draw, 1.0))


def lcm(x, times, draw):
    """Each step draws all of its noise anew."""
    for t, after in pairwise(times):
        e = yield x, t
        (a, s), (b, r) = parts(t), parts(after)
        x = b * (x - s * e) / a + r * draw(x.shape)
    return x


def euler(x, times, draw, corrected=False):
    """k-diffusion's, in sigmas; the model is given scaled samples. `corrected`: Heun's second evaluation."""
    sigmas = [s / a for a, s in map(parts, times)]
    x = x * (1 + sigmas[0] ** 2) ** 0.5
    for i, (now, after) in enumerate(pairwise(sigmas)):
        e = yield x / (1 + now**2) ** 0.5, times[i]
        y = x + (after - now) * e
        if corrected and after > 0.01:
            e = (e + (yield y / (1 + after**2) ** 0.5, times[i + 1])) / 2
            y = x + (after - now) * e
        x = y
    return x


def heun(x, times, draw):
    return (yield from euler(x, times, draw, True))


def flow(x, times, draw):
    for t, after in pairwise(times):
        x = x + (after - t) / 1000 * (yield x, t)
    return x


SAMPLERS = {"ddim": ddim, "ddpm": ddpm, "lcm": lcm, "euler": euler, "heun": heun, "flow": flow}

SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "DDPM": DDPMScheduler,
    "DPM++": DPMSolverMultistepScheduler,
    "Ancestral": EulerAncestralDiscreteScheduler,
    "Flow": FlowMatchEulerDiscreteScheduler,
    "Heun": HeunDiscreteScheduler,
    "LCM": LCMScheduler,
    "PNDM": PNDMScheduler,
    "PLMS": lambda: PNDMScheduler(skip_prk_steps=True),
}
FEWEST = {"PNDM": 5, "PLMS": 5}  # steps that the scheduler can make
NOISY = ("DDPM", "Ancestral", "LCM")


def scheduled(kind, scheduler, steps, x, draw, begin=0, image=None, again=False):
    """By a scheduler of diffusers, from step `begin` of it on, where `image` with the noise `x` is begun with.

    `again`: its timesteps are gone through without another `set_timesteps`.
    """
    if not again:
        scheduler.set_timesteps(max(steps, FEWEST.get(kind, 1)))
    timesteps = scheduler.timesteps[min(begin, len(scheduler.timesteps) - 1) :]
    if begin:
        add = getattr(scheduler, "scale_noise", None) or scheduler.add_noise
        x = add(image, noise=x, **{"timestep" if kind == "Flow" else "timesteps": timesteps[:1]})
    else:
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in timesteps:
        e = yield scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t
        noise = {"generator": draw.generator} if kind in NOISY else {}
        x = scheduler.step(e, t, x, return_dict=False, **noise)[0]
    return x


class Draw:
    """Normal noise of one seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape):
        return torch.randn(shape, generator=self.generator)


def data(draw, text, shape):
    """A sample of the data that `text` asks for."""
    return text.mean(1, keepdim=True) + 0.85 * draw(shape)


def noised(x, t, noise, is_flow=False):
    a, s = parts(t, is_flow)
    return a * x + s * noise
