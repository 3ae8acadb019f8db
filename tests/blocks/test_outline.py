"""The outline of a tensor is all of it but its values; values are compared to the bit, and NaN equals NaN."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from skipcache.blocks.outline import Outline, equal_values, on_host, outline_of, version


@pytest.mark.parametrize(
    "other",
    [torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, device="meta"), torch.ones(2, 3, 1)],
    ids=["shape", "dtype", "device", "rank"],
)
def test_an_outline_tells_shape_dtype_and_device(other):
    x = torch.randn(2, 3)
    assert Outline.of(x) == Outline.of(torch.zeros(2, 3)) != Outline.of(other)
    assert hash(Outline.of(x)) == hash(Outline.of(torch.zeros(2, 3)))


def test_strides_are_told_only_where_they_are_asked_for():
    x = torch.randn(3, 2).t()
    assert Outline.of(x) == Outline.of(x.contiguous())
    assert Outline.exactly(x) != Outline.exactly(x.contiguous())


def test_a_blank_has_the_outline_that_it_was_made_from():
    for x in (torch.randn(3, 2).t(), torch.zeros((), dtype=torch.int64), torch.randn(2, 0)):
        assert Outline.exactly(Outline.exactly(x).blank()) == Outline.exactly(x)
        assert Outline.of(Outline.of(x).blank()) == Outline.of(x)
        assert torch.equal(Outline.of(x).zeros(), torch.zeros_like(x))
    with FakeTensorMode():
        assert isinstance(Outline.of(torch.zeros(2)).blank(), FakeTensor)


def test_other_values_go_by_their_types():
    assert outline_of(1) == outline_of(2) != outline_of(1.0)
    assert outline_of(torch.ones(2)) == Outline.of(torch.zeros(2))


def test_equal_values():
    x = torch.tensor([1.0, float("nan"), 3.0])
    assert equal_values(x, x.clone())
    assert not equal_values(x, torch.tensor([1.0, 2.0, 3.0])) and not equal_values(torch.tensor([1.0, 2.0, 3.0]), x)
    assert not equal_values(x, x.double()) and not equal_values(x, x[None])
    meta = torch.ones(3, device="meta")
    assert equal_values(meta, torch.zeros(3, device="meta")), "without values there is nothing to differ in"
    assert not equal_values(meta, torch.ones(3)) and not equal_values(torch.ones(3), meta)


def test_versions_count_writes_and_those_of_inference_tensors_do_not():
    x = torch.ones(2)
    before = version(x)
    x[:1].mul_(2)
    assert version(x) == before + 1
    with torch.inference_mode():
        assert version(torch.ones(2)) == -1


def test_what_lies_on_the_host():
    assert on_host(1.0) and on_host(None) and on_host(torch.ones(1))
    assert not on_host(torch.ones(1, device="meta"))
