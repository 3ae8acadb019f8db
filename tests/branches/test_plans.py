"""The stack and the plan of a model with skip branches: those that were grafted on, and ends that they allow."""

import pytest

import skipcache
from skipcache.branches.plans import planned, stack_of
from skipcache.stack import Stack, find_stack
from tests.models.sampling import build


def by_hand(number):
    return Stack(tuple((f"core.layers.{i}",) for i in range(number)), "z", "sigma")


def test_a_plain_model_has_the_stack_that_is_found_or_given():
    model = build("yesterday")
    assert stack_of(model) == find_stack(model)
    stack, plan = planned(model, (1, 2))
    assert stack == find_stack(model) and (plan.depth, plan.head, plan.tail, plan.skips) == (5, 1, 2, ())
    stack, plan = planned(model, 1, by_hand(4))
    assert stack == by_hand(4) and plan.depth == 4
    with pytest.raises(ValueError, match="no block at"):
        planned(model, 1, by_hand(6))


def test_a_grafted_model_keeps_the_stack_that_it_was_grafted_on():
    model = skipcache.graft(build("yesterday"), stack=by_hand(4))
    assert stack_of(model) == by_hand(4) != find_stack(model)
    stack, plan = planned(model, 1)
    assert stack == by_hand(4) and plan.skips == ((0, 3), (1, 2))
    with pytest.raises(ValueError, match="the units that the skip branches were grafted on"):
        planned(model, 1, by_hand(5))


@pytest.mark.parametrize("keep", [0, (1, 2), (0, 1)])
def test_with_branches_of_its_own_or_grafted_ones_the_ends_are_equal(keep):
    for model in (build("hunyuan_dit"), skipcache.graft(build("yesterday"))):
        with pytest.raises(ValueError, match="head = tail >= 1"):
            planned(model, keep)
    assert planned(build("hunyuan_dit"), 1)[1].skips == ()
