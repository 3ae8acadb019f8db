"""`skipcache analyze`: a study of features."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.studies import AnalyzeSettings


def run(settings: AnalyzeSettings, console: Console) -> None:
    from skipcache.benchmarks.studies.analysis import run_analysis

    run_analysis(settings, console)


COMMAND = Command("analyze", "how stable the features of each block are", AnalyzeSettings, run)
