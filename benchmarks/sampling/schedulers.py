"""The samplers, on the noise levels that the references are trained with."""

from __future__ import annotations

from typing import Any

import diffusers

from skipcache.benchmarks.names.schedulers import BETAS, FLOW, FLOW_SCHEDULERS, SCHEDULERS, TRAIN_STEPS


def make_scheduler(name: str, prediction: str = "epsilon") -> Any:
    """The diffusers scheduler of a name; `prediction` is what the model predicts, as its prediction_type."""
    if prediction == FLOW:
        return _of_flow(name)
    cls, options = SCHEDULERS[name]
    return getattr(diffusers, cls)(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        prediction_type=prediction,
        **options,
    )


def _of_flow(name: str) -> Any:
    if name not in FLOW_SCHEDULERS:
        raise ValueError(f"expected a sampler of rectified flow, one of {', '.join(FLOW_SCHEDULERS)}, got {name!r}")
    cls, options = FLOW_SCHEDULERS[name]
    predicts = {"prediction_type": FLOW} if options.get("use_flow_sigmas") else {}  # the others know nothing else
    return getattr(diffusers, cls)(num_train_timesteps=TRAIN_STEPS, **predicts, **options)
