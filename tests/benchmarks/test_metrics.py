"""Fidelity against values worked out by hand."""

import math

import pytest
import torch

from skipcache.benchmarks.fidelity.variants import rival_steps, variants
from skipcache.benchmarks.inspection.run import ideal
from skipcache.benchmarks.options.bench import BenchSettings
from skipcache.benchmarks.references.data.dataset import balanced
from skipcache.benchmarks.sampling.metrics import compare


def test_psnr_is_the_mean_over_images_with_its_standard_error():
    reference = torch.full((2, 1, 8, 8), 0.5)
    samples = reference.clone()
    samples[0] += 0.1  # mean squared error 1e-2: 20 dB
    samples[1] += 0.01  # 1e-4: 40 dB
    found = compare(samples, reference)
    assert found.psnr == pytest.approx(30, abs=1e-3)
    assert found.psnr_error == pytest.approx(10, abs=1e-3)  # sample deviation 10 * sqrt(2), over sqrt(2)
    assert not found.exact


def test_equal_samples_are_exact_and_fit_into_json():
    samples = torch.rand(3, 1, 8, 8)
    found = compare(samples, samples.clone())
    assert math.isinf(found.psnr) and found.ssim == pytest.approx(1)
    assert found.row() == {"psnr": None, "psnr_error": None, "ssim": found.ssim, "exact": True}


def test_ssim_falls_with_structure_not_with_a_small_shift():
    samples = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8
    assert compare(samples + 0.02, samples).ssim > 0.98 > 0.5 > compare(samples.flip(-1), samples).ssim


def test_videos_are_compared_whole_by_psnr_and_frame_by_frame_by_ssim():
    reference = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.8
    samples = reference.clone()
    samples[:, :, 1] += 0.2  # one frame of four: mean squared error 1e-2
    found = compare(samples, reference)
    assert found.psnr == pytest.approx(20, abs=1e-3) and found.psnr_error == pytest.approx(0, abs=1e-3)
    frame = compare(samples[:, :, 1], reference[:, :, 1])
    assert found.ssim == pytest.approx((3 + frame.ssim) / 4, abs=1e-3)


def once(steps: int) -> int:
    return steps


def heun(steps: int) -> int:
    return 2 * steps - 1


@pytest.mark.parametrize(("interval", "steps"), [(2, 30), (3, 23), (4, 20), (5, 17)])
def test_the_rival_gets_at_least_the_block_evaluations(interval, steps):
    """Interval 3: 17 full steps of 12 blocks, 33 of 2: 270 blocks, which is 22.5 plain steps."""
    assert rival_steps(BenchSettings(), interval, 12, once) == steps


def test_the_rival_of_a_second_order_sampler():
    """99 calls, 33 of them full: 528 blocks are 44 calls, and 23 Heun steps make 45."""
    assert rival_steps(BenchSettings(), 3, 12, heun) == 23


def test_every_interval_has_its_rival():
    settings = BenchSettings(intervals=(3, 1), predictors=("hold", "forecast"))
    labels = [variant.label for variant in variants(settings, 12, once)]
    assert labels == ["interval 1", "interval 3, Hold", "interval 3, Forecast(1)", "plain, 23 steps"]


def test_ideal_speedup_by_hand():
    assert ideal(3, full=28, cached=2) == pytest.approx(84 / 32)


def test_labels_are_balanced():
    assert balanced(20, 10).bincount().tolist() == [2] * 10
