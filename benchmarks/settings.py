"""What a benchmark run is asked for. Imports nothing heavy: a mistyped option is answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Name on the command line -> diffusers class and the options in which it departs from the class' defaults.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
STOCHASTIC = ("ddpm",)  # another number of steps draws other noise: samples cannot be compared one by one
PREDICTORS = ("hold", "delta", "forecast", "damped")
REAL_SIZES = ("dit-xl-256", "dit-xl-512", "pixart-xl-512", "pixart-xl-1024", "latte-xl-16x256")
PRESETS = (*REAL_SIZES, "dit-digits", "dit-digits-skip", "pixart-shapes", "latte-digits")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """One field per option of `skipcache bench`; a bad value says what was expected, got, and what to do."""

    model: str = "dit-digits"
    weights: Path | None = None
    beside: str | None = "dit-digits-skip"
    steps: int = 50
    scheduler: str = "ddim"
    guidance: float = 3.0
    batch: int = 10
    intervals: tuple[int, ...] = (2, 3, 4, 5)
    predictors: tuple[str, ...] = PREDICTORS
    keep: tuple[int, int] = (1, 1)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    out: Path = Path("bench-out")

    def __post_init__(self) -> None:
        _at_least("--steps", self.steps, 2, "one step leaves nothing to reuse")
        _at_least("--batch", self.batch, 2, "a standard error needs two images")
        if self.beside == self.model:
            raise ValueError(f"--beside: expected another model than --model, got {self.model!r} twice; try none")
        _at_least("--intervals", min(self.intervals, default=0), 1, "1 runs every step in full")
        _at_least("--keep", min(self.keep), 0, "it counts the units run at each end on a cached step")
        _at_least("--seeds", len(self.seeds), 1, "give one or more, such as --seeds 0 1 2")
        _threads(self.threads)
        _distinct("--intervals", self.intervals)
        _distinct("--seeds", self.seeds)
        _predictors(self.predictors)
        _one_of("--scheduler", self.scheduler, tuple(SCHEDULERS))
        _one_of("--dtype", self.dtype, DTYPES)
        _a_folder("--out", self.out)


@dataclass(frozen=True)
class PresetSettings:
    """The options of `skipcache bench --preset`; None leaves the choice to the preset and the device.

    `compile` is a backend of torch.compile, `rounds` how many runs of each pipeline are timed.
    """

    preset: str
    compile: str | None = None
    steps: int = 50
    batch: int | None = None
    intervals: tuple[int, ...] = (2, 3, 4, 5)
    predictors: tuple[str, ...] = ("damped",)
    keep: tuple[int, int] = (1, 1)
    rounds: int = 5
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    out: Path = Path("bench-out")
    results: Path | None = None

    def __post_init__(self) -> None:
        _one_of("--preset", self.preset, PRESETS)
        _at_least("--steps", self.steps, 2, "one step leaves nothing to reuse")
        _at_least("--intervals", min(self.intervals, default=0), 2, "a preset measures cached steps")
        _at_least("--keep", min(self.keep), 0, "it counts the units run at each end on a cached step")
        _at_least("--rounds", self.rounds, 1, "in each, every pipeline runs once")
        _distinct("--intervals", self.intervals)
        _predictors(self.predictors)
        if self.batch is not None:
            _at_least("--batch", self.batch, 1, "leave it out for the preset's own")
        _threads(self.threads)
        if self.dtype is not None:
            _one_of("--dtype", self.dtype, DTYPES)
        _a_folder("--out", self.out)
        _a_folder("--results", self.results)


@dataclass(frozen=True)
class EvidenceSettings:
    """The options of `skipcache evidence`; `images` is how many samples the uncached quality is judged by."""

    models: tuple[str, ...] = ("dit-digits", "dit-digits-skip", "dit-digits-add")
    intervals: tuple[int, ...] = (2, 3, 4, 5, 6)
    predictors: tuple[str, ...] = ("hold", "forecast")
    keep: tuple[int, ...] = (1, 4)
    steps: int = 50
    guidance: float = 3.0
    batch: int = 20
    images: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    threads: int | None = None
    out: Path = Path("evidence-out")

    def __post_init__(self) -> None:
        _at_least("--steps", self.steps, 2, "one step leaves nothing to reuse")
        _at_least("--batch", self.batch, 2, "a standard error needs two images")
        _at_least("--intervals", min(self.intervals, default=0), 2, "1 caches nothing")
        _at_least("--keep", min(self.keep, default=0), 1, "branches need a unit at each end")
        _at_least("--seeds", len(self.seeds), 1, "give one or more, such as --seeds 0 1 2")
        if self.images:
            _at_least("--images", self.images, 2, "0 leaves the quality out")
        _threads(self.threads)
        for option, values in (("--intervals", self.intervals), ("--seeds", self.seeds), ("--model", self.models)):
            _distinct(option, values)
        _predictors(self.predictors)
        _a_folder("--out", self.out)


@dataclass(frozen=True)
class AnalysisSettings:
    """The options of `skipcache analyze`; `noise` is the size of the perturbation over that of the sample."""

    models: tuple[str, ...] = ("dit-digits", "dit-digits-skip")
    steps: int = 50
    guidance: float = 3.0
    batch: int = 20
    noise: float = 0.01
    seed: int = 0
    threads: int | None = None
    out: Path = Path("analyze-out")

    def __post_init__(self) -> None:
        _at_least("--steps", self.steps, 2, "two steps make a change")
        _at_least("--batch", self.batch, 1, "give one or more")
        if not self.noise > 0:
            raise ValueError(f"--noise: expected a positive number, got {self.noise}; 0.01 is one percent")
        _threads(self.threads)
        _distinct("--model", self.models)
        _a_folder("--out", self.out)


CALIBRATION_SEED = 1000  # and beyond: no method is measured on what it was calibrated or tuned on
PEERS = {  # methods of `skipcache bench --peers`: their names, by the library that they need
    "skipcache": ("skipcache", "speedup", "threshold", "uniform-damped", "uniform-hold"),
    "": ("fewer-steps",),
    "cache-dit": ("dbcache", "dbcache-taylorseer", "scm", "scm-taylorseer"),
    "diffusers": ("fbcache", "magcache", "taylorseer", "taylorseer-lite", "pab", "fastercache"),
}
ALL_PEERS = tuple(name for names in PEERS.values() for name in names)


@dataclass(frozen=True)
class PeersSettings:
    """The options of `skipcache bench --peers`; `targets` are speedups by FLOPs."""

    model: str = "dit-digits"
    weights: Path | None = None
    scheduler: str = "ddim"
    steps: int = 50
    guidance: float = 3.0
    batch: int = 12
    targets: tuple[float, ...] = (1.5, 2.2, 3.0)
    methods: tuple[str, ...] = ALL_PEERS
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int | None = None
    out: Path = Path("peers-out")

    def __post_init__(self) -> None:
        _at_least("--steps", self.steps, 4, "fewer leave no room for three speedups")
        _at_least("--batch", self.batch, 2, "a standard error needs two images")
        _at_least("--seeds", len(self.seeds), 1, "give one or more, such as --seeds 0 1 2")
        if max(self.seeds) >= CALIBRATION_SEED:
            raise ValueError(
                f"--seeds: expected numbers below {CALIBRATION_SEED}, from which on methods are tuned, "
                f"got {max(self.seeds)}"
            )
        if not self.targets or not min(self.targets) > 1:
            raise ValueError(f"--targets: expected speedups above 1, got {' '.join(map(str, self.targets))}")
        _threads(self.threads)
        for option, values in (("--targets", self.targets), ("--seeds", self.seeds), ("--methods", self.methods)):
            _distinct(option, values)
        for method in self.methods:
            _one_of("--methods", method, ALL_PEERS)
        _one_of("--scheduler", self.scheduler, tuple(SCHEDULERS))
        _a_folder("--out", self.out)


def _at_least(option: str, value: int, lowest: int, why: str) -> None:
    if value < lowest:
        raise ValueError(f"{option}: expected at least {lowest}, got {value}; {why}")


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{option}: expected one of {', '.join(allowed)}, got {value!r}")


def _distinct(option: str, values: tuple[Any, ...]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{option}: expected different values, got {' '.join(map(str, values))}; name each once")


def _predictors(predictors: tuple[str, ...]) -> None:
    _at_least("--predictor", len(predictors), 1, f"name some of {', '.join(PREDICTORS)}")
    _distinct("--predictor", predictors)
    for predictor in predictors:
        _one_of("--predictor", predictor, PREDICTORS)


def _threads(threads: int | None) -> None:
    if threads is not None:
        _at_least("--threads", threads, 1, "leave it out for all cores")


def _a_folder(option: str, path: Path | None) -> None:
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"{option}: expected a folder, got the file {path}; name another path")
