"""Fidelity against values worked out by hand."""

import math

import pytest
import torch

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
