"""The steps of one ComfyUI run, by their sigmas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SAME = 1e-5  # relative: a sigma that is as good as another one


@dataclass(frozen=True)
class Steps:
    """The steps of a run.

    Attributes:
        levels: the sigma of each, on the host.
        inside: those that may be cached.
        timesteps, times: of those inside, (steps,): as the model is given them, and sigma / (alpha + sigma).
    """

    levels: tuple[float, ...]
    inside: range
    timesteps: Tensor
    times: Tensor

    @classmethod
    def of(cls, sampling: Any, sigmas: Tensor, start: float = 0.0, end: float = 1.0) -> Steps:
        """`sampling`: the model's `model_sampling`. `sigmas`: of the run, (steps + 1,). The part is as in ComfyUI.

        Raises ValueError where no step lies in it.
        """
        asked = sigmas[:-1].float().cpu()
        levels = tuple(asked.tolist())
        first, last = float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))
        found = [i for i, level in enumerate(levels) if last <= level <= first]
        if not found:
            raise ValueError(
                f"none of the run's {len(levels)} steps lies between {start:.0%} and {end:.0%} of sampling"
            )
        inside = range(found[0], found[-1] + 1)
        chosen = sigmas[inside.start : inside.stop].float()
        # The model's own rule mixes noise and image by their weights at each sigma: (steps, 1).
        one, none = torch.ones_like(chosen)[:, None], torch.zeros_like(chosen)[:, None]
        noise = sampling.noise_scaling(chosen, one.clone(), none.clone())[:, 0]
        image = sampling.noise_scaling(chosen, none.clone(), one.clone())[:, 0]
        return cls(levels, inside, sampling.timestep(chosen), (noise / (noise + image)).clamp(0, 1))

    def at(self, level: float, last: int) -> int:
        """The step of a call at sigma `level`, where the call before was of step `last`. It never goes back.

        A second evaluation between two sigmas is of the step in which it lies; one at the next sigma (Heun) is of the
        next step.
        """
        ahead = range(last, len(self.levels))
        same = next((i for i in ahead if abs(self.levels[i] - level) <= SAME * abs(level)), None)
        if same is not None:
            return same
        falls = self.levels[0] > self.levels[-1]
        return max((i for i in ahead if falls and self.levels[i] > level), default=last)
