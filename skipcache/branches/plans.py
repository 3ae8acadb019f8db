"""The stack and the plan of a model that may have skip branches."""

from __future__ import annotations

from torch import nn

from skipcache.branches.modules import branches_of
from skipcache.stack import Keep, Plan, Stack, check_stack, find_stack, make_plan


def stack_of(model: nn.Module) -> Stack:
    """The stack that branches were grafted on, else the one that is found."""
    branches = branches_of(model)
    return find_stack(model) if branches is None else branches.stack


def planned(model: nn.Module, keep: Keep, stack: Stack | None = None) -> tuple[Stack, Plan]:
    """The stack of `model`, unless it is given, and the plan that its skip branches, grafted or its own, allow."""
    if stack is not None:
        check_stack(model, stack)
    stack, branches = stack or stack_of(model), branches_of(model)
    if branches is not None and stack.units != branches.stack.units:
        raise ValueError("stack: expected the units that the skip branches were grafted on; leave stack out")
    plan = make_plan(len(stack.units), keep, () if branches is None else branches.layout.pairs)
    if stack.native_skips and (plan.head != plan.tail or plan.head < 1):
        raise ValueError(f"keep: {type(model).__name__} has skip branches, which need head = tail >= 1, got {keep}")
    return stack, plan
