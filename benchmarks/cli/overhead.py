"""`skipcache overhead`: the host's time."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.overhead import OverheadSettings


def run(settings: OverheadSettings, console: Console) -> None:
    from skipcache.benchmarks.overhead.run import run_overhead

    run_overhead(settings, console)


COMMAND = Command("overhead", "time what a call costs the host, beside a plain one", OverheadSettings, run)
