"""The samplers, on the noise levels that the references are trained with."""

from __future__ import annotations

from typing import Any

import diffusers

from skipcache.benchmarks.names.schedulers import BETAS, SCHEDULERS, TRAIN_STEPS


def make_scheduler(name: str, prediction: str = "epsilon") -> Any:
    """The diffusers scheduler of a name; `prediction` is what the model predicts, as its prediction_type."""
    cls, options = SCHEDULERS[name]
    return getattr(diffusers, cls)(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        prediction_type=prediction,
        **options,
    )
