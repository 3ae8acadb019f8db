"""Tensors in nested values, and on a model."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def children(value: Any) -> list[tuple[Any, Any, Any]] | None:
    """(how to take it, its key, it) for all that `value` holds; None where it holds nothing."""
    if isinstance(value, (tuple, list)):
        return [(operator.getitem, i, item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return [(operator.getitem, key, item) for key, item in value.items()]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return [(getattr, name, getattr(value, name)) for name in value.__dataclass_fields__]
    return None


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) is slice:
        yield from tensors_in((value.start, value.stop, value.step))
    else:
        for _, _, item in children(value) or ():
            yield from tensors_in(item)


def has_tensor(value: Any) -> bool:
    return next(tensors_in(value), None) is not None


def mapped(value: Any, change: Any) -> Any:
    """`value` with `change` made to the tensors in it."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(item, change) for item in value)
    if type(value) is dict:
        return {key: mapped(item, change) for key, item in value.items()}
    if type(value) is slice:
        return slice(*(mapped(part, change) for part in (value.start, value.stop, value.step)))
    return value


def tensor_paths(model: nn.Module) -> Iterator[tuple[int, str]]:
    """All tensors that hang on a module of `model`, with the path to read them by; the first path of a shared one."""
    seen = set()
    for path, module in model.named_modules():
        held = {**module.__dict__, **module._parameters, **module._buffers}
        for name, x in held.items():
            if isinstance(x, Tensor) and id(x) not in seen:
                seen.add(id(x))
                yield id(x), f"{path}.{name}" if path else name
