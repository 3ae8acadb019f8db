"""Features made by hand, and what a predictor makes of them."""

import torch

from skipcache.predictors.base import remembered


def features(number, streams=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(2, 3, generator=generator, dtype=dtype) for _ in range(streams)) for _ in range(number)]


def predict(predictor, step, full_steps, left, H):
    """What comes of the features that full steps left, the latest first."""
    kept = remembered(predictor, left, full_steps)
    return predictor.predict(H, kept, predictor.weights(step, full_steps[: predictor.depth]))
