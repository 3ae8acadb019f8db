"""`skipcache compare`: two folders of one's own samples."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.compare import CompareSettings


def run(settings: CompareSettings, console: Console) -> None:
    from skipcache.benchmarks.folders.run import run_compare

    run_compare(settings, console)


COMMAND = Command("compare", "compare two folders of pictures or videos by name", CompareSettings, run)
