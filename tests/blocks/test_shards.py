"""What is seen of a model that no other process holds. With others: tests/distributed."""

import pytest
import torch
from torch import nn

from skipcache.blocks.shards import (
    as_entering,
    class_name,
    divided_like,
    groups_of,
    is_divided,
    named_group,
    reshard,
    sequence_group,
    whole_argument,
    whole_of,
)


def test_a_plain_model_is_held_by_one_process():
    model, x = nn.Linear(2, 2), torch.ones(2)
    reshard(model)
    assert groups_of(model) == [] and sequence_group(model) is None
    assert not any(map(is_divided, model.parameters())) and class_name(model) == "Linear"
    assert whole_of(x) is x and divided_like(x, model.weight) is x and whole_argument(model, "x", x) is x
    assert as_entering(model, (x,), {"a": 1}) == ((x,), {"a": 1})


def test_a_dimension_that_no_mesh_has_is_named():
    with pytest.raises(ValueError, match=r"Linear is sharded over \(none\), got 'replica'"):
        named_group(nn.Linear(2, 2), "replica")


def test_the_name_that_fsdp_gives_a_class_is_not_its_own():
    FSDPModule = type("FSDPModule", (), {})
    made = type("FSDPLinear", (FSDPModule, nn.Linear), {})
    assert class_name(made(2, 2)) == "Linear"
    assert class_name(type("FSDPLike", (nn.Linear,), {})(2, 2)) == "FSDPLike"


class ContextParallelSplitHook:
    """As diffusers': gives its process the first half."""

    def pre_forward(self, module, *args, **kwargs):
        return tuple(x[:1] for x in args), {name: x[:1] for name, x in kwargs.items()}


class Registry:
    def __init__(self, **hooks):
        self.hooks, self._hook_order = hooks, list(hooks)


def test_arguments_are_seen_behind_the_hooks_that_split_them():
    model = nn.Linear(2, 2)
    model._diffusers_hook = Registry(other=object(), split=ContextParallelSplitHook())
    args, kwargs = as_entering(model, (torch.ones(2, 2),), {"b": torch.ones(2)})
    assert args[0].shape == (1, 2) and kwargs["b"].shape == (1,)
