"""How far a run strays from another one."""

import copy

import pytest
import torch

import skipcache
from skipcache.calibration.step_maps import StepMaps
from skipcache.calibration.watcher import Seen, Watcher, watch
from tests.models.calibrations import Guided
from tests.models.sampling import build


def test_one_sample_that_goes_another_way_does_not_hide_the_others():
    model = build("original_dit")
    plain = watch(Watcher(model, skipcache.find_stack(model), None), Guided(model).run)
    sampler = StepMaps(plain, plain)
    assert sampler.error(plain) == 0

    def error(*sizes):
        other = copy.deepcopy(plain)
        last = other.seen[0][-1][0]
        noise = torch.stack([size * last.e[i] for i, size in enumerate(sizes)])
        other.seen[0][-1][0] = Seen(last.x, last.e + noise)
        return sampler.error(other)

    assert error(0.01, 0.01, 0.01, 0.01) == pytest.approx(0.01, rel=1e-3)
    assert error(0.01, 1.0, 0.01, 1.0) == pytest.approx(0.1, rel=1e-3)
    assert 0 < error(0.0, 1.0, 0.0, 1.0) < 1e-4
