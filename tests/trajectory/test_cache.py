"""What a lane's cache keeps of full steps, what a cached step is given of it, and when it is dropped."""

import pytest
import torch

from skipcache import Delta, Forecast, Hold
from skipcache.trajectory.cache import FeatureCache

H, D = (torch.randn(2, 3), torch.randn(2, 5)), (torch.randn(2, 3), torch.randn(2, 5))


def recorded(predictor, *steps, follows=False, H=H):
    cache = FeatureCache(follows)
    for step in steps:
        cache.record(step, H, tuple(d + step for d in D), predictor)
    return cache


def test_hold_keeps_d_and_delta_what_the_deep_blocks_added():
    cache = recorded(Hold(), 4)
    assert not cache.residual and all(map(torch.equal, cache.kept[0], [d + 4 for d in D]))
    cache = recorded(Delta(), 4)
    assert cache.residual and all(map(torch.equal, cache.kept[0], [d + 4 - h for d, h in zip(D, H)]))


@pytest.mark.parametrize("H", [None, (H[0],), (H[0], H[0])], ids=["unknown", "fewer streams", "other shapes"])
def test_where_the_difference_cannot_be_formed_d_is_kept(H):
    cache = recorded(Delta(), 0, H=H)
    assert not cache.residual and all(map(torch.equal, cache.kept[0], D))
    prediction = cache.predict(1, Delta())
    assert all(map(torch.equal, prediction(H), D)), "the fresh H is not added to it"


def test_steps_are_remembered_as_far_as_the_predictor_looks():
    assert recorded(Forecast(1), 0, 3, 5).full_steps == [5, 3]
    assert recorded(Hold(), 0, 3).full_steps == [3] and recorded(Hold(), 0, 3).last_full == 3
    assert FeatureCache().last_full == -1 and FeatureCache().tensors == []


def test_features_of_another_kind_are_not_extrapolated_from_the_ones_before():
    cache = recorded(Forecast(1), 0, 3)
    cache.record(6, (H[0][:1], H[1]), (D[0][:1], D[1]), Forecast(1))
    assert cache.full_steps == [6] and cache.predict(7, Forecast(1)).weights == (0.0,)
    cache.record(8, None, D, Forecast(1))
    assert cache.full_steps == [8] and not cache.residual


def test_a_slope_scales_the_predictor_s_weights_alone():
    cache = recorded(Forecast(1), 0, 3)
    whole, half = cache.predict(5, Forecast(1)), cache.predict(5, Forecast(1), slope=0.5)
    assert half.weights == tuple(w / 2 for w in whole.weights) != whole.weights
    assert half.kept is whole.kept is cache.kept and whole.residual


def test_only_a_policy_that_follows_h_is_told_of_it():
    assert recorded(Hold(), 0).predict(1, Hold()).observe is None
    cache = recorded(Hold(), 0, follows=True)
    cache.predict(1, Hold()).saw(H)
    assert cache.drift.H is H and all(x in [id(t) for t in cache.tensors] for x in map(id, H))


def test_outputs_right_before_a_step_without_a_gap():
    cache, outputs = FeatureCache(), [torch.full((1,), float(i)) for i in range(6)]
    for step in (0, 1, 2, 4):
        cache.note_output(step, outputs[step])
    assert cache.outputs_before(5) == [outputs[4]] and cache.outputs_before(7) == []
    cache.note_output(5, outputs[5])
    assert cache.outputs_before(6) == [outputs[5], outputs[4]]


def test_what_is_forgotten_holds_no_feature():
    cache = recorded(Delta(), 0, follows=True)
    assert len(cache.tensors) == 4
    cache.forget()
    assert cache.tensors == [] and cache.last_full == -1 and cache.drift.is_known
