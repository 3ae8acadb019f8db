"""What a block returned or was given is told by its values and its layout, and handed out apart."""

import pytest
import torch

from skipcache.engines.noted import Given, Made, ambient, is_simple

X = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("x", [X, X[:, 1:], X.t(), X[:1].expand(3, 4)], ids=["whole", "view", "turned", "expanded"])
def test_what_was_returned_is_handed_out_apart(x):
    made = Made(x)
    out = made.hand_out()
    assert torch.equal(out, x) and out.data_ptr() != x.data_ptr()
    assert made.is_same(x) and not made.is_same(x + 1)


def test_a_value_that_is_not_held_is_told_by_identity():
    made = Made(X)
    made.kept = None
    out = made.hand_out()
    assert out.is_meta and made.is_same(out) and not made.is_same(X) and not made.is_same(torch.empty_like(out))


def test_writes_are_counted():
    x = X.clone()
    made, given = Made(x), Given(x)
    assert not made.is_written(x) and given.is_same(x)
    x.add_(1)
    assert made.is_written(x) and not given.is_same(x)


@pytest.mark.parametrize("other", [X.double(), X.t().contiguous().t(), X[:2], 1.0, None])
def test_another_outline_is_another_value(other):
    assert not Given(X).is_same(other)


def test_a_tensor_of_another_kind_is_not_simple():
    assert (
        is_simple(X) and not is_simple(X.to_sparse()) and not is_simple(X.as_subclass(type("Own", (torch.Tensor,), {})))
    )


def test_the_ambient_is_what_functions_obey_beside_their_arguments():
    before = ambient()
    with torch.no_grad():
        assert ambient() != before
    with torch.autocast("cpu", torch.bfloat16):
        assert ambient() != before
    assert ambient() == before
