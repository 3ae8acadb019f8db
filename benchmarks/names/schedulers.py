"""The samplers, and the noise levels that they and the training loss share."""

from __future__ import annotations

from typing import Any

from skipcache.benchmarks.names.models import FLOWS

# Name -> diffusers class, and the options that differ from the class' defaults.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
SHIFT = 3.0  # of the noise levels towards noise, as Stable Diffusion 3 has it
# The same for models of rectified flow.
FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {"shift": SHIFT}),
    "dpm++": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": SHIFT}),
    "unipc": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": SHIFT}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {"shift": SHIFT}),
}
FLOW = "flow_prediction"  # what such a model predicts, as a prediction_type
FLOW_STEPS = 28
STOCHASTIC = ("ddpm",)  # another number of steps draws other noise: samples cannot be compared one by one
# Those that `skipcache default` can compare.
USUAL_STEPS = {"ddim": 50, "ddpm": 50, "dpm++": 20, "unipc": 20, "euler": 28, "heun": 20}
TRAIN_STEPS = 1000
BETAS = (1e-4, 0.02)  # linear, as in DDPM (arXiv 2006.11239) and as diffusers' schedulers have it by default


def samplers_of(model: str) -> tuple[str, ...]:
    """Those that can sample the reference of that name."""
    return tuple(FLOW_SCHEDULERS if model in FLOWS else SCHEDULERS)
