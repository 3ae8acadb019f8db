"""The cells of a study: each model by each sampler that suits it, by interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.console import Console

from skipcache.benchmarks.names.schedulers import samplers_of
from skipcache.benchmarks.options.studies import DefaultSettings, HalfSettings
from skipcache.benchmarks.references.reference import Reference
from skipcache.benchmarks.references.registry import find_reference
from skipcache.benchmarks.show.progress import progress_bar

Cell = TypeVar("Cell")
Settings = TypeVar("Settings", DefaultSettings, HalfSettings)


def measure_cells(
    settings: Settings, measured: Callable[[Reference, str, Settings], Iterable[Cell]], console: Console
) -> list[Cell]:
    """`measured` gives those of a model and a sampler, one for each interval."""
    pairs = [(name, one) for name in settings.models for one in settings.schedulers if one in samplers_of(name)]
    cells: list[Cell] = []
    with progress_bar(console, total=len(pairs) * len(settings.intervals)) as bar:
        for name, scheduler in pairs:
            bar.say(f"{name}, {scheduler}")
            for cell in measured(find_reference(name), scheduler, settings):
                cells.append(cell)
                bar.advance()
    return cells
