"""The options of `skipcache engines`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.names.presets import PRESETS
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, a_backend, a_folder, a_usable_device
from skipcache.benchmarks.options.option import option, positional


@dataclass(frozen=True)
class EnginesSettings(Checked):
    """Time alone, of both engines. None leaves the choice to the preset and the device."""

    preset: str = positional("a real size with random weights, or a reference denoiser", choices=PRESETS)
    compile: str | None = option(
        None,
        "compile the plain model and fx; inductor by default",
        metavar="BACKEND",
        nargs="?",
        const="inductor",
        check=a_backend,
    )
    steps: int = shared.steps()
    batch: int | None = shared.batch(
        None,
        "samples per call, both halves of guidance included (default: the preset's own)",
        1,
        "leave it out for the preset's own",
    )
    intervals: tuple[int, ...] = shared.intervals((2, 3, 4, 5), 2, "a preset measures cached steps")
    predictors: tuple[str, ...] = shared.predictors("damped")
    keep: tuple[int, int] = shared.keep()
    rounds: int = option(
        5, "runs of each pipeline, in turns", least=1, most=10_000, why="in each, every pipeline runs once"
    )
    device: str = option("cpu", "cpu, cuda, cuda:1 or mps", check=a_usable_device)
    dtype: str | None = option(
        None, "of weights and features", choices=shared.DTYPES, shown="float32; bfloat16 on cuda"
    )
    threads: int | None = shared.threads()
    out: Path = shared.out("bench-out")
    results: Path | None = option(
        None,
        "folder for the result file",
        metavar="FOLDER",
        check=a_folder,
        shown="--out on the CPU, else benchmarks/results",
    )
