"""The plan: which units a cached step runs, and which ends cannot be."""

import pytest

from skipcache.stack.plan import Plan, deep_blocks, make_plan
from skipcache.stack.stack import Stack


@pytest.mark.parametrize(("keep", "ends"), [(1, (1, 1)), (0, (0, 0)), ((2, 0), (2, 0)), ([0, 3], (0, 3))])
def test_head_deep_and_tail_are_all_units_once(keep, ends):
    plan = make_plan(6, keep)
    assert (plan.head, plan.tail) == ends
    assert [*plan.head_units, *plan.deep_units, *plan.tail_units] == list(range(6))
    assert (len(plan.head_units), len(plan.tail_units)) == ends


def test_deep_blocks_are_those_of_the_deep_units():
    pairs = Stack(tuple((f"s.{i}", f"t.{i}") for i in range(4)))
    assert [pairs.blocks[i] for i in deep_blocks(pairs, make_plan(4, (1, 2)))] == ["s.1", "t.1"]
    assert deep_blocks(pairs, make_plan(4, 0)) == range(8)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (2, ValueError, r"head \+ tail < 4, the depth of the stack, got 2 \+ 2"),
        ((4, 0), ValueError, r"got 4 \+ 0"),
        (-1, ValueError, "head >= 0, got -1"),
        ((0, -1), ValueError, "tail >= 0, got -1"),
        (1.0, TypeError, r"an int or \(head, tail\), got 1\.0"),
        ("1", TypeError, "got '1'"),
        ((1, 1, 1), TypeError, "got"),
        ((True, 1), TypeError, "got"),
    ],
)
def test_ends_that_cannot_be(keep, error, message):
    with pytest.raises(error, match=message):
        make_plan(4, keep)


def test_with_skip_branches_the_ends_are_equal_and_a_branch_of_the_tail_starts_in_the_head():
    assert make_plan(6, 1, [(0, 5), (1, 4)]) == Plan(6, 1, 1, ((0, 5), (1, 4)))
    for keep in (0, (1, 2), (2, 1)):
        with pytest.raises(ValueError, match="head = tail >= 1"):
            make_plan(6, keep, [(0, 5)])
    with pytest.raises(ValueError, match=r"\[\(1, 5\)\] end in the tail but start in units that a cached step skips"):
        make_plan(6, 1, [(1, 5)])
    assert make_plan(6, 2, [(1, 5)]).skips == ((1, 5),)
