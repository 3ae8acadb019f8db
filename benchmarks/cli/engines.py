"""`skipcache engines`: the time of both engines."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.engines import EnginesSettings


def run(settings: EnginesSettings, console: Console) -> None:
    from skipcache.benchmarks.engines.run import run_engines

    run_engines(settings, console)


COMMAND = Command(
    "engines", "time both engines, by the run and by the step; fidelity is not measured", EnginesSettings, run
)
