"""Processes that share a sharded model agree on full steps."""

import torch
from torch import distributed

from skipcache.trajectory.processes import agreed

CPU = torch.device("cpu")


def test_without_a_group_there_is_nobody_to_ask():
    assert agreed(True, CPU) and not agreed(False, CPU)


def test_a_step_is_full_where_any_process_says_so(monkeypatch):
    """The others' votes are made up; all processes ask, whatever their own answer is."""
    asked = []

    def all_reduce(vote, op):
        assert op is distributed.ReduceOp.MAX
        asked.append(vote.item())
        vote.copy_(torch.maximum(vote, torch.tensor(others)))

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    for others in (0, 1):
        assert [agreed(full, CPU) for full in (False, True)] == [bool(others), True]
    assert asked == [0, 1, 0, 1]
