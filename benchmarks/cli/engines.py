"""`skipcache engines` and `skipcache overhead`: the time of both engines, and what a call costs the host."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.engines import EnginesSettings
from skipcache.benchmarks.options.overhead import OverheadSettings


def run(settings: EnginesSettings, console: Console) -> None:
    from skipcache.benchmarks.engines.run import run_engines

    run_engines(settings, console)


def run_host(settings: OverheadSettings, console: Console) -> None:
    from skipcache.benchmarks.overhead.run import run_overhead

    run_overhead(settings, console)


COMMAND = Command(
    "engines", "time both engines, by the run and by the step; fidelity is not measured", EnginesSettings, run
)
OVERHEAD = Command("overhead", "time what a call costs the host, beside a plain one", OverheadSettings, run_host)
