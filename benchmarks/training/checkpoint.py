"""The state of an interrupted training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("settings", "step", "model", "average", "optimizer")


def save(
    path: Path,
    settings: dict[str, Any],
    step: int,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write beside, then rename: a kill in mid-write leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": settings,
        "step": step,
        "model": model.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
    }
    beside = path.with_suffix(".writing")
    torch.save(state, beside)
    os.replace(beside, path)


def resume(
    path: Path,
    settings: dict[str, Any],
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """The step to go on with: 0 without a checkpoint. Refuses a checkpoint of other settings, and any other file."""
    if not path.exists():
        return 0
    state = _read(path)
    if state["settings"] != settings:
        raise ValueError(
            f"{path} belongs to a run with other settings: expected {settings}, got {state['settings']}; "
            "delete it, or give another --out"
        )
    step = state["step"]
    if type(step) is not int or step < 0:
        raise _refusal(path, f"its step is {step!r}")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for name, value in average.items():
            value.copy_(state["average"][name])
    except Exception as error:  # each part may hold anything, and is read by code of torch
        raise _refusal(path, error) from error
    return step


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _refusal(path, "it is no file")
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # torch.load raises much, from EOFError to what unpickling raises
        raise _refusal(path, error) from error
    if not isinstance(state, dict) or not state.keys() >= set(PARTS):
        raise _refusal(path, f"it does not hold {', '.join(PARTS)}")
    return state


def _refusal(path: Path, reason: object) -> ValueError:
    said = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    return ValueError(
        f"expected a checkpoint of `skipcache train` at {path}, got a file that is none: {said}; "
        "delete it, or give another --out"
    )
