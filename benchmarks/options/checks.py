"""Checks of values that options share. Each raises ValueError with what was expected, what was given, what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from skipcache.benchmarks.options.option import Option, option_of, spelled

LARGEST = 2**31 - 1  # of any integer: larger ones overflow somewhere in torch


class Checked:
    """Base of the settings classes: every field is checked as its option says."""

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if value is not None:
                _check(spelled(one), value, option_of(one))

    @classmethod
    def of(cls, given: dict[str, Any]) -> Any:
        """Settings out of the options that were given. Defaults that depend on other options are chosen here."""
        return cls(**given)


def _check(name: str, value: Any, option: Option) -> None:
    for one in value if isinstance(value, tuple) else (value,):
        if option.choices and one not in option.choices:
            raise ValueError(f"{name}: expected one of {', '.join(option.choices)}, got {one!r}")
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            _check_number(name, one, option)
    if option.check is not None:
        option.check(name, value)


def _check_number(name: str, value: float, option: Option) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if option.least is not None and value < option.least:
        why = f"; {option.why}" if option.why else ""
        raise ValueError(f"{name}: expected at least {option.least}, got {value}{why}")
    most = LARGEST if option.most is None else option.most
    if value > most or value < -LARGEST:
        raise ValueError(
            f"{name}: expected {f'at most {most}' if value > most else f'at least {-LARGEST}'}, got {value}"
        )


def several(name: str, values: tuple[Any, ...]) -> None:
    """One or more, all different."""
    if not values:
        raise ValueError(f"{name}: expected at least one value, got none; leave {name} out for the default")
    if len(set(values)) < len(values):
        raise ValueError(f"{name}: expected different values, got {' '.join(map(str, values))}; name each once")


def a_folder(name: str, path: Path) -> None:
    """A folder that exists, or a path at which one can be made."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name}: expected a folder, got the file {path}; name another path")


def a_weights_file(name: str, path: Path) -> None:
    """An ordinary file. A device such as /dev/zero would be read without an end."""
    if not path.is_file():
        found = "something that is no file" if path.exists() else "none"
        raise ValueError(f"{name}: expected weights at {path}, found {found}; `skipcache train MODEL` makes them")


def a_program(name: str, path: Path) -> None:
    """A file that can be run."""
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError(f"{name}: expected a program, such as .venv/bin/python, got {path}")


def a_usable_device(name: str, device: str) -> None:
    """One whose values can be read: that of `meta` cannot."""
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except Exception as error:  # what is raised differs from device to device
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: expected one torch can use, got {device!r}; try cpu. {reason}") from None


def a_backend(name: str, backend: str) -> None:
    """One of torch.compile's."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"{name}: expected a backend of torch.compile, got {backend!r}; one of {', '.join(known)}")


def a_mode(name: str, mode: str) -> None:
    """One of torch.compile's."""
    from torch._inductor import list_mode_options

    if mode not in list_mode_options():
        raise ValueError(
            f"{name}: expected a mode of torch.compile, got {mode!r}; one of {', '.join(list_mode_options())}"
        )


def both_ends(keep: Sequence[int]) -> tuple[int, int]:
    """One number for both ends of the stack, or one for each."""
    if len(keep) not in (1, 2):
        raise ValueError(f"--keep: expected one or two numbers, got {len(keep)}; such as --keep 1 or --keep 1 2")
    return keep[0], keep[-1]
