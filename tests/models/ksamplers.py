"""Samplers as in k-diffusion: `denoise(x, sigma)` gives the data that x is thought to hold; a function for each rule.

Written from the papers: Karras et al. (arXiv 2206.00364) for Euler's and Heun's, DPM-Solver (2206.00927) and its second
version (2211.01095) for the others. `draw(shape)` gives noise.
"""

from itertools import pairwise

import torch


def karras(steps, low=0.05, high=20.0, rho=7.0):
    """Falling sigmas, and 0."""
    ramp = torch.linspace(0, 1, steps)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, torch.zeros(1)])


def euler(denoise, x, sigmas, draw):
    for now, after in pairwise(sigmas):
        x = x + (after - now) * (x - denoise(x, now)) / now
    return x


def heun(denoise, x, sigmas, draw):
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        y = x + (after - now) * slope
        if after > 0:
            slope = (slope + (y - denoise(y, after)) / after) / 2
        x = x + (after - now) * slope
    return x


def dpm_2(denoise, x, sigmas, draw):
    """The slope in the middle, of the logarithms."""
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        if after > 0:
            middle = (now * after) ** 0.5
            y = x + (middle - now) * slope
            slope = (y - denoise(y, middle)) / middle
        x = x + (after - now) * slope
    return x


def parted(now, after):
    """(where a step goes without noise, the noise that is drawn to get from there to `after`)."""
    up = torch.minimum(after, (after**2 * (now**2 - after**2) / now**2) ** 0.5)
    return (after**2 - up**2) ** 0.5, up


def euler_ancestral(denoise, x, sigmas, draw):
    for now, after in pairwise(sigmas):
        down, up = parted(now, after)
        x = x + (down - now) * (x - denoise(x, now)) / now + up * draw(x.shape)
    return x


def dpmpp_2s_ancestral(denoise, x, sigmas, draw):
    for now, after in pairwise(sigmas):
        down, up = parted(now, after)
        data = denoise(x, now)
        if after > 0:
            middle = (now * down) ** 0.5
            y = middle / now * x + (1 - middle / now) * data
            data = denoise(y, middle)
        x = down / now * x + (1 - down / now) * data + up * draw(x.shape)
    return x


def dpmpp_2m(denoise, x, sigmas, draw):
    before = None
    for i, (now, after) in enumerate(pairwise(sigmas)):
        data = denoise(x, now)
        used = data
        if before is not None and after > 0:
            r = (sigmas[i - 1] / now).log() / (now / after).log()
            used = (1 + 1 / (2 * r)) * data - before / (2 * r)
        x = after / now * x + (1 - after / now) * used
        before = data
    return x


SAMPLERS = {f.__name__: f for f in (euler, heun, dpm_2, euler_ancestral, dpmpp_2s_ancestral, dpmpp_2m)}
