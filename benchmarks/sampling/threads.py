"""How many CPU threads torch uses."""

from __future__ import annotations

import os

import torch


def use_threads(threads: int | None) -> None:
    """All cores where no number is given."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
