"""The options of `skipcache engines` and `skipcache gpu`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.names.presets import PARTS, PRESETS, REAL_SIZES, TEST_PART
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, a_backend, a_folder, a_mode, a_usable_device
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
    mode: str | None = option(
        None, "the mode of --compile, such as reduce-overhead: with CUDA graphs", metavar="MODE", check=a_mode
    )
    size: str | None = option(
        None, "of the presets with random weights", choices=("reduced", "real"), shown="reduced on the CPU, else real"
    )
    blocks: int | None = option(
        None,
        "keep so many layers: blocks of DiT, PixArt and Wan, pairs of blocks of Latte, and of Flux a block of two "
        "streams with two of one stream",
        metavar="N",
        least=1,
        why="it is a count of layers",
    )
    peers: bool = option(
        False, "in place of the engines: caches of other packages beside skipcache, one block at the start on all"
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
    cpu_time: bool = option(
        False,
        "count this process' CPU time in place of the clock's, where other programs share the CPU; with --threads 1",
        flag="--cpu-time",
    )
    one_shot: int = option(
        20,
        "steps of the first image of all, with default arguments; 0 for none",
        flag="--one-shot",
        metavar="STEPS",
        least=0,
        most=1000,
        why="0 leaves it out",
    )
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "blocks"):
            if getattr(self, name) is not None and self.preset not in REAL_SIZES:
                raise ValueError(
                    f"--{name}: expected one of {', '.join(REAL_SIZES)} with it, got {self.preset}, which is taken as "
                    f"it is; leave --{name} out"
                )
        if self.cpu_time and not (self.on_cpu and self.threads == 1):
            raise ValueError("--cpu-time: expected --device cpu and --threads 1 with it, got others; add --threads 1")
        if self.mode is not None and self.compile != "inductor":
            raise ValueError(f"--mode: expected --compile inductor with it, got {self.compile}; add --compile")

    @property
    def on_cpu(self) -> bool:
        return self.device.startswith("cpu")

    @property
    def reduced(self) -> bool:
        """The presets of random weights are smaller than real."""
        return self.preset in REAL_SIZES and (self.size or ("reduced" if self.on_cpu else "real")) == "reduced"


@dataclass(frozen=True)
class GpuSettings(Checked):
    """All that only a GPU can tell, in parts."""

    parts: tuple[str, ...] = option((), "only these, most wanted first", choices=(*PARTS, TEST_PART), shown="all")
    device: str = option("cuda", "cuda or cuda:1; cpu tries the parts at reduced sizes", check=a_usable_device)
    seconds: int = option(570, "after which no part goes on", least=1, most=86_400, why="it is a time")
    out: Path = shared.out("bench-out/gpu")
