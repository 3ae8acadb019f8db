"""What every predictor does: it is pure, keeps as much from the first step on, and scales with its weights."""

import copy

import pytest
import torch

from skipcache import Delta, Forecast, Hold, predictors
from skipcache.predictors.base import Prediction, Predictor, remembered
from tests.models.defaults import DEFAULT_PREDICTORS
from tests.models.features import features, predict


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS)
def test_where_no_update_could_be_formed_the_feature_itself_is_followed(predictor):
    """H is None: what was kept is D."""
    full_steps = [4, 2, 0][: predictor.depth]
    kept = remembered(predictor, [(torch.full((2,), float(1 + 2 * s)),) for s in full_steps], full_steps)
    (got,) = Prediction(predictor, kept, predictor.weights(5, full_steps), residual=False)((torch.ones(2),))
    assert torch.equal(got, torch.full((2,), 11.0 if predictor.weights(5, full_steps) else 9.0))


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS)
def test_predicting_changes_nothing_that_is_kept(predictor):
    H, *kept = features(predictor.depth + 1)
    before = [x.clone() for feature in (H, *kept) for x in feature]
    predict(predictor, 9, list(range(8, 8 - predictor.depth, -1)), kept, H)
    assert all(torch.equal(x, y) for x, y in zip(before, [x for feature in (H, *kept) for x in feature]))


@pytest.mark.parametrize("predictor", [p for p in DEFAULT_PREDICTORS if p.weights(7, [5, 2])])
def test_a_slope_multiplies_all_that_is_added_to_the_last_feature(predictor):
    """A calibration fits it between a run without and a run with all of it, as if what lies between were linear."""
    H, *left = features(4)
    steps = [5, 2, 0][: predictor.depth]
    kept, weights = remembered(predictor, left, steps), predictor.weights(7, steps)
    flat, half, whole = (predictor.predict(H, kept, [w * slope for w in weights])[0] for slope in (0.0, 0.5, 1.0))
    assert torch.equal(flat, H[0] + left[0][0]) and not torch.equal(flat, whole)
    torch.testing.assert_close(half, (flat + whole) / 2)


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS)
def test_as_much_is_kept_from_the_first_full_step_on(predictor):
    """One graph serves all cached steps then."""
    left = features(5)
    for known in range(2, 6):
        kept, first = (remembered(predictor, left[-n:], list(range(n, 0, -1))) for n in (known, 1))
        assert [[x.shape for x in streams] for streams in kept] == [[x.shape for x in streams] for streams in first]
        assert len(predictor.weights(9, list(range(known, 0, -1))[: predictor.depth])) == len(predictor.weights(9, [1]))


def test_all_are_predictors_and_compare_by_value():
    for predictor in DEFAULT_PREDICTORS:
        assert isinstance(predictor, Predictor)
        assert copy.deepcopy(predictor) == predictor and hash(copy.deepcopy(predictor)) == hash(predictor)
    assert len(set(DEFAULT_PREDICTORS)) == len(DEFAULT_PREDICTORS)
    assert Forecast(2) == Forecast(2) != Forecast(1)
    assert Hold() == Hold() != Delta()


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prediction_looks_like_the_feature_however_few_full_steps_lie_behind(predictor, dtype):
    H, *left = features(4, streams=2, dtype=dtype)
    for known in (1, 2, 3):
        D_hat = predict(predictor, 7, [5, 2, 0][:known], left[:known], H)
        assert [(x.shape, x.dtype) for x in D_hat] == [(x.shape, x.dtype) for x in left[0]]
        assert all(x.isfinite().all() for x in D_hat)


@pytest.mark.parametrize("predictor", DEFAULT_PREDICTORS, ids=repr)
def test_where_nothing_changed_the_last_feature_is_predicted(predictor):
    """Every full step left the same: no predictor may add anything to it."""
    H, left = features(2, streams=2)
    D_hat = predict(predictor, 9, [6, 3, 0], [left] * 3, H)
    expected = [h + r for h, r in zip(H, left)] if predictor.residual else left
    assert all(map(torch.equal, D_hat, expected))


def test_a_prediction_shows_h_to_who_asked_for_it():
    (H,), seen = features(1), []
    prediction = Prediction(Hold(), [H], (), residual=False)
    prediction.saw(H)
    assert not prediction.reads_H
    observed = Prediction(Hold(), [H], (), residual=False, observe=seen.append)
    observed.saw(H)
    observed.saw(None)
    assert observed.reads_H and seen[0] is H and seen[1] is None
    assert Prediction(Delta(), [H], (), residual=True).reads_H


def test_the_matrix_has_every_predictor_of_the_library():
    names = set(predictors.__all__) - {"Predictor", "Prediction"}
    kinds = {value for value in map(predictors.__dict__.get, names) if isinstance(value, type)}
    assert {type(predictor) for predictor in DEFAULT_PREDICTORS} == kinds
