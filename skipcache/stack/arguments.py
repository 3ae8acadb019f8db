"""The names of the arguments that a model's forward takes."""

from __future__ import annotations

import inspect
from types import MethodType

from torch import nn


def argument_names(model: nn.Module) -> list[str]:
    """In order, without `self`: those of the method that the instance binds as its forward, else those of the class.

    A model may have no forward in its class and choose one of its methods in `__init__` (Open-Sora 2.0). What wraps a
    forward, as offload hooks and our own overrides do, is looked through. A wrapper that takes `*args` shows no names.
    """
    own = model.__dict__.get("forward")
    if own is not None:
        own = inspect.unwrap(own, stop=lambda f: isinstance(f, MethodType))
        bound = isinstance(own, MethodType) and own.__self__ is model
        parameters = inspect.signature(own).parameters
        named = all(p.kind is not inspect.Parameter.VAR_POSITIONAL for p in parameters.values())
        if (bound and named) or not has_class_forward(model):
            return list(parameters)
    return list(inspect.signature(type(model).forward).parameters)[1:]


def has_class_forward(model: nn.Module) -> bool:
    return type(model).forward is not nn.Module.forward
