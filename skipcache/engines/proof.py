"""Proof by trial: a cached step that is given D itself must give the full step's output, to the bit.

It must also count what the full step counts outside of the model, as the code of other libraries may do.
"""

from __future__ import annotations

from typing import Any

from skipcache.blocks import Snapshot, equal_values, tensors_of


def same_output(one: Any, other: Any) -> bool:
    """Both have equal tensors, at least one. NaN equals NaN."""
    ours, theirs = list(tensors_of(one)), list(tensors_of(other))
    return len(ours) == len(theirs) > 0 and all(map(equal_values, ours, theirs))


def lost_effects(after: Snapshot) -> str | None:
    """Names whole numbers outside of the model that a trial left unlike those after the full step."""
    lost = after.outside.changed(int)
    if not lost:
        return None
    return f"the model counts in {', '.join(lost[:3])}, outside of it, and a cached step would count otherwise"
