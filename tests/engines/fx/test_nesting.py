"""Tensors are found in nested values and on a model, and changed where they are."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from skipcache.engines.fx.nesting import children, has_tensor, mapped, tensor_paths, tensors_in

A, B = torch.ones(2), torch.zeros(3)


@dataclass
class Output:
    sample: torch.Tensor
    scale: float = 1.0


@pytest.mark.parametrize(
    "value",
    [(A, [B, 1]), {"a": A, "b": (None, B)}, OrderedDict(a=A, b=B), [Output(A), Output(B)], (slice(None, A), B)],
    ids=["tuple", "dict", "ordered", "dataclasses", "slice"],
)
def test_all_tensors_are_found_in_order(value):
    assert [id(x) for x in tensors_in(value)] == [id(A), id(B)] and has_tensor(value)


@pytest.mark.parametrize("value", [None, 3, "a", (1, [2]), {"a": slice(0, 2)}, torch.float32, Output])
def test_none_are_found_where_there_are_none(value):
    assert not has_tensor(value)


def test_each_part_comes_with_the_way_to_take_it_out():
    for value in ((A, 1), {"a": A, "b": 2}, Output(A)):
        assert all(take(value, key) is part for take, key, part in children(value))
    assert children(A) is None and children(3) is None


def test_tensors_are_changed_in_the_same_nesting():
    value = {"a": [A, 1], "b": (B, slice(A, None))}
    doubled = mapped(value, lambda x: x + 1)
    assert torch.equal(doubled["a"][0], A + 1) and doubled["a"][1] == 1
    assert torch.equal(doubled["b"][0], B + 1) and torch.equal(doubled["b"][1].start, A + 1)
    assert value["a"][0] is A


def test_a_model_s_tensors_have_one_path_each():
    class Inner(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.shared, self.table = shared, torch.ones(2)
            self.register_buffer("mask", torch.ones(2))

    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    model.inner = Inner(model.weight)
    assert sorted(path for _, path in tensor_paths(model)) == ["inner.mask", "inner.table", "weight"]
    assert dict(tensor_paths(model))[id(model.inner.table)] == "inner.table"
