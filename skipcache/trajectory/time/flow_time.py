"""Flow time: how much of a sample is noise at each step of a run, whatever way a scheduler counts its timesteps."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from skipcache.blocks import on_host


def flow_times(scheduler: Any, timesteps: Tensor) -> tuple[float, ...] | None:
    """tau = sigma / (alpha + sigma) at each of `timesteps`, 1 where all is noise, 0 where none is. None: not known.

    Nothing is read from a device. Where timesteps or noise levels lie on one, a copy of the scheduler is set on the
    host for as many steps. Levels that a pipeline gave by hand are not seen then.
    """
    if not on_host(timesteps) or not on_host(getattr(scheduler, "sigmas", None)):
        scheduler = _on_host(scheduler, len(timesteps))
        timesteps = getattr(scheduler, "timesteps", timesteps)
    levels = None if scheduler is None else _levels(scheduler, timesteps)
    if levels is None or len(levels) != len(timesteps) or not bool(torch.isfinite(levels).all()):
        return None
    return tuple(levels.clamp(0, 1).tolist())


def _levels(scheduler: Any, timesteps: Tensor) -> Tensor | None:
    config, count = getattr(scheduler, "config", None), len(timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    if isinstance(sigmas, Tensor) and sigmas.ndim == 1 and len(sigmas) >= count:
        sigmas = sigmas[:count].double()
        if bool((sigmas > 1).any()):
            return sigmas / (1 + sigmas)  # x = x0 + sigma * noise
        return 1 - sigmas if getattr(config, "invert_sigmas", False) else sigmas  # x = (1 - sigma) * x0 + sigma * noise
    left = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(left, Tensor) or left.ndim != 1 or not on_host(left):
        return None
    at = timesteps.long().clamp(0, len(left) - 1)
    alpha, sigma = left.double()[at].sqrt(), (1 - left.double()[at]).sqrt()
    return sigma / (alpha + sigma)


def _on_host(scheduler: Any, count: int) -> Any:
    """A copy that was set for as many steps on the host; None where that cannot be."""
    steps = getattr(scheduler, "num_inference_steps", None)
    config = getattr(scheduler, "config", None)
    shifts = bool(getattr(config, "use_dynamic_shifting", False))  # by the image's size: the largest that is usual
    options = {"mu": getattr(config, "max_shift", None)} if shifts else {}
    twin = copy(scheduler)
    try:
        twin.set_timesteps(steps, device="cpu", **options)
    except Exception:  # of any scheduler
        return None
    return twin if len(twin.timesteps) == count else None
