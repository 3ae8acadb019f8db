"""What the report of a run says: steps, blocks, features held, and the speedup of the FLOPs."""

import pytest
import torch

import skipcache
from skipcache import Damped, Delta, Forecast, Hold
from tests.models.sampling import build, inputs, sample


def test_the_report_counts_what_was_done():
    model = skipcache.accelerate(build("dit"), interval=3, predictor=Forecast(1))
    sample("dit", model, steps=7)
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, report.full_at) == (3, 4, (0, 3, 6))
    assert (report.blocks_run, report.blocks_saved) == (3 * 4 + 4 * 2, 4 * 2)
    feature = 2 * 16 * 16 * 4  # batch, tokens, width, bytes
    assert report.cache_bytes == 2 * feature
    assert report.engine == "hooks" and report.reasons == ()
    text = str(report)
    assert "full steps" in text and "0 3 6" in text

    skipcache.reset(model)
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, report.cache_bytes, report.ideal_speedup) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("predictor", "features"), [(Hold(), 1), (Delta(), 1), (Forecast(1), 2), (Forecast(2), 3), (Damped(), 2)]
)
def test_no_more_features_are_held_than_said(predictor, features):
    model = skipcache.accelerate(build("dit"), interval=2, predictor=predictor)
    sample("dit", model, steps=9)
    shares = 2 * 4 if predictor == Damped() else 0  # one number per row
    assert skipcache.report(model).cache_bytes == features * 2 * 16 * 16 * 4 + shares


def test_hold_keeps_a_reference_not_a_copy():
    model = skipcache.accelerate(build("dit"), interval=2, predictor=Hold(), engine="hooks")
    seen = []
    model.transformer_blocks[2].register_forward_hook(lambda m, args, output: seen.append(output.data_ptr()))
    kwargs, _, _ = inputs("dit", model)
    with torch.no_grad():
        model(**kwargs, timestep=torch.full((2,), 500))
    (trajectory,) = model.__dict__["forward"].runs.all
    assert trajectory.tensors[0].data_ptr() == seen[0]


def test_the_ideal_speedup_is_that_of_the_flops():
    model = build("original_dit")
    skipcache.accelerate(model, interval=3, keep=0)
    assert skipcache.report(model).ideal_speedup is None
    sample("original_dit", model, steps=1)
    assert skipcache.report(model).ideal_speedup == 1.0
    sample("original_dit", model, steps=30)
    n, tokens, width = 2, 16, 16
    attention = 2 * n * tokens * width * (4 * width) + 2 * 2 * n * tokens * tokens * width
    block = attention + 2 * n * width * 3 * width + 2 * 2 * n * tokens * width * 2 * width
    ends = 2 * 2 * n * tokens * 4 * width + 2 * n * width * width
    full, cached = 4 * block + ends, ends
    assert skipcache.report(model).ideal_speedup == pytest.approx(31 * full / (11 * full + 20 * cached), rel=0.02)
