"""Functions that `torch.compile` has compiled run as they are written, for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.RLock()  # the stance of torch.compile is the process's: overlaps would leave it on


@contextmanager
def eagerly() -> Iterator[None]:
    """Inside, on tensors without values: what a compiler fails on there it does not compile any more, anywhere."""
    with _ONE_AT_A_TIME, torch.compiler.set_stance("force_eager"):
        yield
