"""An argument as it was at one call is known again by its memory, or by its values, unless it was written to."""

import pytest
import torch

from skipcache.trajectory.mark import Mark, is_plain


def test_the_same_memory_is_the_same_argument():
    x = torch.randn(4, 3)
    mark = Mark.of(x)
    assert mark.same(x) and mark.same(x.view(4, 3)) and mark.same(x[:])
    for other in (x.clone(), x[:2], x[1:], x.t(), x.view(3, 4), x.view(torch.int32), None, 1):
        assert not mark.same(other)
    half = Mark.of(x[:2])
    assert half.same(x[:2]) and not half.same(x[2:]), "views of one memory are two arguments"


def test_equal_values_are_another_matter():
    x = torch.randn(4)
    mark = Mark.of(x)
    assert mark.equal(x.clone()) and not mark.same(x.clone())
    assert not mark.equal(x + 1) and not mark.equal(x[None]) and not mark.equal(x.double())


@pytest.mark.parametrize("write", [lambda x: x.mul_(1), lambda x: x[:1].zero_(), lambda x: x.copy_(x.clone())])
def test_a_write_is_noticed_whatever_it_writes(write):
    x = torch.randn(4)
    mark, before = Mark.of(x), x.clone()
    write(x)
    assert not mark.same(x) and not mark.equal(before), "what it held at the call is gone"


def test_inference_tensors_are_told_by_a_copy():
    with torch.inference_mode():
        x = torch.randn(4)
        before, mark = x.clone(), Mark.of(x)
        assert mark.is_sure and mark.same(x) and mark.equal(before)
        x.add_(1)
        assert not mark.same(x) and mark.equal(before) and not mark.equal(x)
        x.sub_(x).add_(before)
        assert mark.same(x), "the values of the call are there again"


def test_without_versions_or_a_copy_nothing_is_sure():
    assert Mark.of(torch.ones(2)).is_sure and Mark.of(3).is_sure
    with torch.inference_mode():
        assert not Mark.of(torch.ones(2, device="meta")).is_sure


def test_plain_values_are_compared_with_their_types():
    assert Mark.of(1).same(1) and Mark.of("a").equal("a") and Mark.of(None).same(None)
    assert Mark.of(torch.float32).same(torch.float32)
    for one, other in ((1, 1.0), (1, True), (1, 2), (None, 0), ("a", "b"), (1, torch.tensor(1))):
        assert not Mark.of(one).same(other) and not Mark.of(one).equal(other)


def test_objects_are_told_by_identity():
    one = {"a": 1}
    assert Mark.of(one).same(one) and not Mark.of(one).same({"a": 1})
    assert not is_plain(one) and is_plain(2.5) and is_plain(torch.device("cpu"))


def test_a_mark_holds_its_tensor_so_that_no_other_one_takes_its_memory():
    mark = Mark.of(torch.randn(1000))
    assert not any(mark.same(torch.randn(1000)) for _ in range(50))


def through_data(x):
    x.data.add_(1)


def through_numpy(x):
    x.numpy()[...] += 1


@pytest.mark.parametrize("write", [through_data, through_numpy])
@pytest.mark.parametrize("shape", [(), (2,), (1, 77, 64), (2, 4, 1, 16, 16)])
def test_writes_that_no_version_counts_are_told_by_some_of_the_values(write, shape):
    x = torch.randn(shape)
    mark, before, seen = Mark.of(x), x.clone(), x._version
    assert mark.same(x) and mark.equal(before)
    write(x)
    assert x._version == seen
    assert not mark.same(x) and not mark.equal(before) and not mark.equal(x) and mark.as_it_was is None


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(0, 3),
        torch.tensor([float("nan"), 1.0]),
        torch.ones(3, 5, dtype=torch.bool),
        torch.ones(4, 6, dtype=torch.bfloat16).t(),
        torch.ones(4, 6).to(torch.float8_e4m3fn),
        torch.ones(4, 6, requires_grad=True) * 2,
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, 3, dtype=torch.complex64).conj(),
        torch.ones(3).expand(4, 3),
        torch.eye(3).to_sparse(),
        torch.nn.Parameter(torch.ones(3)),
        torch.empty(3, device="meta"),
    ],
    ids=str,
)
def test_tensors_of_any_kind_are_known_again(x):
    assert Mark.of(x).same(x)
