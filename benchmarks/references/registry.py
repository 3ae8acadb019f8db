"""Finds a reference, or the task that trains it, by name."""

from __future__ import annotations

import importlib
from types import ModuleType

from skipcache.benchmarks.names.models import AUTOENCODERS, JUDGES, REFERENCES, TRAINABLE
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.task import Task


def find_reference(name: str) -> Reference:
    if name not in REFERENCES:
        raise ValueError(f"expected one of {', '.join(REFERENCES)}, got {name!r}")
    reference: Reference = _module(REFERENCES[name]).reference()
    return reference


def find_task(name: str) -> Task:
    """The task that trains a reference, a judge or an autoencoder."""
    if name in REFERENCES:
        return find_reference(name).task()
    modules = {**AUTOENCODERS, **{judge: f"judges.{module}" for judge, module in JUDGES.items()}}
    if name not in modules:
        raise ValueError(f"expected one of {', '.join(TRAINABLE)}, got {name!r}")
    task: Task = _module(modules[name]).task()
    return task


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"skipcache.benchmarks.references.{name}")
