"""`skipcache engines`, `gpu` and `overhead`: the time of both engines, all of it on a GPU, and of the host alone."""

from __future__ import annotations

from rich.console import Console

from skipcache.benchmarks.cli.command import Command
from skipcache.benchmarks.options.engines import EnginesSettings, GpuSettings
from skipcache.benchmarks.options.overhead import OverheadSettings


def run(settings: EnginesSettings, console: Console) -> None:
    from skipcache.benchmarks.engines.run import run_engines

    run_engines(settings, console)


def run_on_gpu(settings: GpuSettings, console: Console) -> None:
    from skipcache.benchmarks.engines.gpu import run_gpu

    run_gpu(settings, console)


def run_host(settings: OverheadSettings, console: Console) -> None:
    from skipcache.benchmarks.overhead.run import run_overhead

    run_overhead(settings, console)


COMMAND = Command(
    "engines", "time both engines, by the run and by the step; fidelity is not measured", EnginesSettings, run
)
GPU = Command("gpu", "all that only a GPU can tell, in parts that write their files", GpuSettings, run_on_gpu)
OVERHEAD = Command("overhead", "time what a call costs the host, beside a plain one", OverheadSettings, run_host)
