"""Two outputs are the same where all their tensors are, and there is one at least."""

from types import SimpleNamespace

import pytest
import torch

from skipcache.engines.proof import same_output

A, B = torch.randn(2, 3), torch.randn(2, 3)
NAN = torch.tensor([float("nan"), 1.0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (A, A.clone()),
        ((A, B), [A.clone(), B.clone()]),
        ({"eps": A}, SimpleNamespace(eps=A.clone())),
        (NAN, NAN.clone()),
        (torch.ones(2, device="meta"), torch.zeros(2, device="meta")),
    ],
    ids=["tensor", "tuple", "object", "nan", "meta"],
)
def test_the_same(one, other):
    assert same_output(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (A, B),
        (A, torch.nextafter(A, A + 1)),
        (A, A.double()),
        (A, A[None]),
        ((A, B), (B, A)),
        ((A, B), (A,)),
        (NAN, torch.tensor([float("nan"), 2.0])),
        (None, None),
        ((), ()),
    ],
    ids=["values", "last bit", "dtype", "shape", "order", "number", "nan", "none", "empty"],
)
def test_not_the_same(one, other):
    assert not same_output(one, other) and not same_output(other, one)
