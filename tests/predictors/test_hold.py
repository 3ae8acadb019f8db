"""`Hold`: the last deep feature itself."""

from skipcache import Hold
from tests.models.features import features, predict


def test_hold_hands_out_the_last_feature_itself():
    H, D = features(2, streams=2)
    assert all(x is d for x, d in zip(predict(Hold(), 5, [4], [D], H), D))
    assert not Hold().residual
    assert Hold().depth == 1
