"""A block's output is taken apart into streams and rebuilt, and streams are found again among arguments."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from skipcache.blocks.streams import alike, arguments_of, handed_in, rebuild, take_apart, tensors_of

A, B = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
Pair = namedtuple("Pair", ["text", "image"])


@pytest.mark.parametrize(
    ("output", "number"),
    [
        (A, 1),
        ((A,), 1),
        ((A, B), 2),
        ([A, B], 2),
        ((None, A), 1),
        ((A, None, B, 3), 2),
        (Pair(A, B), 2),
        (Pair(None, B), 1),
    ],
    ids=["tensor", "tuple of one", "tuple", "list", "none first", "mixed", "named", "named with none"],
)
def test_what_is_taken_apart_is_rebuilt_in_the_same_nesting(output, number):
    streams, shape = take_apart(output)
    assert len(streams) == number and all(isinstance(x, torch.Tensor) for x in streams)
    fresh = [x + 1 for x in streams]
    rebuilt = rebuild(shape, fresh)
    assert type(rebuilt) is type(output)
    again, again_shape = take_apart(rebuilt)
    assert again_shape == shape and len(again) == number and all(map(torch.equal, again, fresh))


def test_the_shape_holds_no_tensor():
    assert take_apart((A, None, B))[1] == (..., None, ...)


@pytest.mark.parametrize("output", [None, 3, {"x": A}, SimpleNamespace(x=A)])
def test_other_outputs_have_no_streams(output):
    assert take_apart(output) == ((), output)


def test_arguments_by_place_and_by_name():
    assert arguments_of((A, 1), {"mask": None}) == {0: A, 1: 1, "mask": None}


def test_a_stream_is_found_by_identity():
    arguments = arguments_of((A,), {"text": B, "other": A.clone()})
    assert handed_in((B, A), arguments) == ("text", 0)
    assert handed_in((A.clone(),), arguments) == (None,)


def test_a_guess_takes_each_argument_once_and_by_its_look():
    one, two = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    arguments = arguments_of((torch.randn(2, 9), one), {"text": B, "more": two})
    assert alike((A, A), arguments) == (1, "more")
    assert alike((B, A), arguments) == ("text", 1)
    assert alike((A, A, A), arguments) == (1, "more", None)
    assert alike((A.double(),), arguments) == (None,)


def test_tensors_of_any_output():
    both = [A, B]
    for output in (both, {"a": A, "b": (None, B)}, SimpleNamespace(a=A, n=3, b=B), (SimpleNamespace(a=A), B)):
        assert all(x is y for x, y in zip(tensors_of(output), both))
        assert len(list(tensors_of(output))) == 2
    assert list(tensors_of(None)) == []
