"""Finds a reference, or the task that trains it, by name."""

from __future__ import annotations

import importlib
from types import ModuleType

from skipcache.benchmarks.names.models import JUDGES, REFERENCES
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.training.task import Task


def find_reference(name: str) -> Reference:
    if name not in REFERENCES:
        raise ValueError(f"expected one of {', '.join(REFERENCES)}, got {name!r}")
    reference: Reference = _module(REFERENCES[name]).reference()
    return reference


def find_task(name: str) -> Task:
    """The task that trains a reference or a judge."""
    if name in JUDGES:
        task: Task = _module(f"judges.{JUDGES[name]}").task()
        return task
    if name not in REFERENCES:
        raise ValueError(f"expected one of {', '.join([*REFERENCES, *JUDGES])}, got {name!r}")
    return find_reference(name).task()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"skipcache.benchmarks.references.{name}")
