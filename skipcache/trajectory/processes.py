"""Agreement of the processes that share a sharded model."""

from __future__ import annotations

import torch
from torch import distributed


def agreed(full: bool, device: torch.device) -> bool:
    """True where any process of the default group says so; all must ask. Without a group there is nobody to ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return full
    vote = torch.tensor(int(full), device=device)
    distributed.all_reduce(vote, op=distributed.ReduceOp.MAX)
    return bool(vote.item())
