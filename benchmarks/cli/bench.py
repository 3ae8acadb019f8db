"""`skipcache bench`: fidelity and speed of a reference denoiser."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.bench import BenchSettings


def run(settings: BenchSettings, console: Console) -> None:
    from skipcache.benchmarks.fidelity.run import run_bench

    run_bench(settings, console)


MOVED = {"--peers": "skipcache peers", "--preset": "skipcache engines PRESET"}
COMMAND = Command("bench", "measure speed and fidelity on a trained reference denoiser", BenchSettings, run, MOVED)
