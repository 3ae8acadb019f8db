"""The options of `skipcache evidence`, `default`, `half`, `promises` and `analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.names.schedulers import USUAL_STEPS
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, several
from skipcache.benchmarks.options.option import option


@dataclass(frozen=True)
class EvidenceSettings(Checked):
    """How well models cache; `images` is the number of samples that the uncached quality is judged by."""

    models: tuple[str, ...] = shared.models("dit-digits", "dit-digits-skip", "dit-digits-add")
    intervals: tuple[int, ...] = shared.intervals((2, 3, 4, 5, 6), 2, "1 caches nothing")
    predictors: tuple[str, ...] = shared.predictors("hold", "forecast")
    keep: tuple[int, ...] = option(
        (1, 4), "units run at each end", least=1, why="branches need a unit at each end", check=several
    )
    steps: int = shared.steps()
    guidance: float = shared.guidance()
    batch: int = shared.batch(20, "images per seed")
    images: int = option(1000, "images to judge quality by; 0 leaves the quality out", least=0, most=1_000_000)
    seeds: tuple[int, ...] = shared.seeds((0, 1, 2, 3), "one run for each")
    threads: int | None = shared.threads()
    out: Path = shared.out("evidence-out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images == 1:
            raise ValueError("--images: expected at least 2, got 1; 0 leaves the quality out")


@dataclass(frozen=True)
class DefaultSettings(Checked):
    """What `accelerate(pipe, interval=n)` keeps, beside fewer sampler steps."""

    models: tuple[str, ...] = shared.models("dit-digits", "pixart-shapes", "latte-digits")
    schedulers: tuple[str, ...] = option(
        ("ddim", "ddpm", "dpm++", "unipc", "euler"),
        "samplers",
        flag="--scheduler",
        choices=tuple(USUAL_STEPS),
        check=several,
    )
    intervals: tuple[int, ...] = shared.intervals((2, 3, 4), 2, "1 caches nothing")
    steps: int | None = option(
        None, "sampler steps", least=9, most=1000, shown="50; 20 of dpm++, unipc and heun, 28 of euler"
    )
    guidance: float = shared.guidance()
    batch: int = shared.batch(8, "images per seed")
    seeds: tuple[int, ...] = shared.seeds((201, 202), "one run for each")
    threads: int | None = shared.threads()
    out: Path = shared.out("default-out")


@dataclass(frozen=True)
class HalfSettings(Checked):
    """What `accelerate(pipe, interval=n)` keeps in half precision."""

    models: tuple[str, ...] = shared.models("dit-digits", "pixart-shapes", "latte-digits", "mmdit-emoji")
    schedulers: tuple[str, ...] = option(
        ("dpm++",), "samplers", flag="--scheduler", choices=tuple(USUAL_STEPS), check=several
    )
    intervals: tuple[int, ...] = shared.intervals((2, 3), 2, "1 caches nothing")
    steps: int | None = option(
        None, "sampler steps", least=9, most=1000, shown="50; 20 of dpm++, unipc and heun, 28 of euler"
    )
    dtype: str = option("bfloat16", "half precision", choices=("bfloat16", "float16"))
    guidance: float = shared.guidance()
    batch: int = shared.batch(8, "images per seed")
    seeds: tuple[int, ...] = shared.seeds((201,), "one run for each")
    threads: int | None = shared.threads()
    out: Path = shared.out("half-out")


@dataclass(frozen=True)
class PromisesSettings(Checked):
    """How often the errors that a calibration promises are kept; `batch` are the samples that it is made on."""

    models: tuple[str, ...] = shared.models("dit-digits", "pixart-shapes", "mmdit-emoji")
    speedup: float = option(2.2, "what the calibration is to reach, in FLOPs")
    batch: int = shared.batch(8, "samples to calibrate on")
    checked: int = option(400, "other samples, on which the promise rests", least=20, most=100_000)
    new: int = option(400, "samples on which it is to be kept", least=1, most=100_000)
    guidance: float = shared.guidance()
    threads: int | None = shared.threads()
    out: Path = shared.out("promises-out")


@dataclass(frozen=True)
class AnalyzeSettings(Checked):
    """How stable features are; `noise` is the size of the perturbation over that of the sample."""

    models: tuple[str, ...] = shared.models("dit-digits", "dit-digits-skip")
    steps: int = shared.steps(why="two steps make a change")
    guidance: float = shared.guidance()
    batch: int = shared.batch(20, "images", 1, "give one or more")
    noise: float = option(0.01, "size of the perturbation, relative to the sample's")
    seed: int = option(0, "of the first noise")
    threads: int | None = shared.threads()
    out: Path = shared.out("analyze-out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise > 0:
            raise ValueError(f"--noise: expected a positive number, got {self.noise}; 0.01 is one percent")
