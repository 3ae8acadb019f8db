"""`skipcache inspect`: what is found in a model."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.inspect import InspectSettings


def run(settings: InspectSettings, console: Console) -> None:
    from skipcache.benchmarks.inspection.run import run_inspect

    run_inspect(settings.model, console, keep=settings.keep, overrides=settings.config, graph=settings.graph)


COMMAND = Command("inspect", "show the stack, the plan and the ideal speedup of a model", InspectSettings, run)
