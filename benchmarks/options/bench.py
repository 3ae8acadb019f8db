"""The options of `skipcache bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcache.benchmarks.names.models import REFERENCES
from skipcache.benchmarks.names.predictors import PREDICTORS
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, a_usable_device
from skipcache.benchmarks.options.option import option


def _or_none(name: str) -> str | None:
    return None if name == "none" else name


@dataclass(frozen=True)
class BenchSettings(Checked):
    """Fidelity and speed of a reference denoiser, at some intervals and with some predictors."""

    model: str = shared.model()
    weights: Path | None = shared.weights()
    beside: str | None = option(
        "dit-digits-skip",
        "another model, in a table of its own, or none",
        metavar="MODEL",
        choices=tuple(REFERENCES),
        convert=_or_none,
        shown="dit-digits-skip beside dit-digits, else none",
    )
    steps: int = shared.steps()
    scheduler: str = shared.scheduler()
    guidance: float = shared.guidance()
    batch: int = shared.batch(10, "images per run")
    intervals: tuple[int, ...] = shared.intervals((2, 3, 4, 5), 1, "1 runs every step in full")
    predictors: tuple[str, ...] = shared.predictors(*PREDICTORS)
    keep: tuple[int, int] = shared.keep()
    seeds: tuple[int, ...] = shared.seeds((0, 1, 2, 3, 4), "one pair of runs for each")
    device: str = option("cpu", "cpu, cuda, cuda:1 or mps", check=a_usable_device)
    dtype: str = option("float32", "of weights and features", choices=shared.DTYPES)
    threads: int | None = shared.threads()
    out: Path = shared.out("bench-out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beside == self.model:
            raise ValueError(f"--beside: expected another model than --model, got {self.model!r} twice; try none")
        for model in filter(None, (self.model, self.beside)):
            shared.check_scheduler(model, self.scheduler)

    @classmethod
    def of(cls, given: dict[str, Any]) -> BenchSettings:
        """The skip model stands beside its plain one, where both can run; beside others, nothing."""
        head, tail = given.get("keep", cls.keep)
        fits = given.get("model", cls.model) == cls.model and "weights" not in given and head == tail >= 1
        usual = shared.usual(given.get("model", cls.model))
        return cls(**{"beside": cls.beside if fits else None, **usual, **given})
