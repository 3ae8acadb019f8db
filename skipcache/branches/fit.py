"""Whether the tensors of a file fit the model: their names, shapes and kinds, before any of them is copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

SHOWN = 8

State = Mapping[str, Tensor]


def as_state(value: Any, where: str) -> dict[str, Tensor]:
    """`value` as tensors by name. Raises ValueError where it is anything else, or nothing."""
    if isinstance(value, Mapping) and value and all(isinstance(name, str) for name in value):
        odd = sorted(name for name, x in value.items() if not isinstance(x, Tensor))
        if not odd:
            return dict(value)
        raise ValueError(
            f"{where}: expected a state dict of tensors, got other values for {shown(odd)}; pass what is in it"
        )
    got = f"an empty {type(value).__name__}" if value == {} else type(value).__name__
    raise ValueError(f"{where}: expected a state dict of tensors by name, got {got}; save `model.state_dict()`")


def check_keys(where: str, given: State, ours: State) -> None:
    check_names(f"{where} does not fit the model", given.keys(), ours.keys())
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(ours[name].shape)}"
        for name in ours
        if given[name].shape != ours[name].shape
    ]
    wrong += [f"{name} is {_kind(given[name])}, not {_kind(x)}" for name, x in ours.items() if _odd(given[name], x)]
    if wrong:
        raise ValueError(f"{where} does not fit the model: {shown(wrong)}")


def _odd(given: Tensor, ours: Tensor) -> bool:
    """Values that could not be copied, or would lose their meaning: quantised integers, sparse or missing ones."""
    dense = given.layout is torch.strided and not given.is_quantized and not given.is_meta
    return not dense or (given.is_floating_point(), given.is_complex()) != (ours.is_floating_point(), ours.is_complex())


def _kind(x: Tensor) -> str:
    layout = "" if x.layout is torch.strided else f" ({x.layout})"
    return f"{x.dtype}{layout}{' without values' if x.is_meta else ''}".replace("torch.", "")


def check_names(what: str, given: Set[str], expected: Set[str]) -> None:
    missing, unexpected = sorted(expected - given), sorted(given - expected)
    if missing or unexpected:
        raise ValueError(f"{what}: missing keys: {shown(missing)}; unexpected keys: {shown(unexpected)}")


def shown(names: Iterable[str] | str) -> str:
    if isinstance(names, str):
        return names
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "none"
