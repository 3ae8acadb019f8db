"""What `skipcache engines` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PresetRow:
    """An engine at an interval.

    Attributes:
        against: what it is compared with: the plain model, which is compiled where the engine is.
        first_step, full_step, cached_step: times, in steps of the plain model.
        over_hooks: for each round, the time of a cached step of the hooks over that of this engine.
        peak_memory, plain_peak_memory: bytes; None except on cuda, as are the synchronisations.
        cache_bytes: what the cached features hold; None in files of earlier versions.
    """

    label: str
    against: str
    interval: int
    predictor: str
    engine: str
    speedup: float
    ratios: tuple[float, ...]
    ideal: float | None
    first_step: float
    full_step: float
    cached_step: float
    over_hooks: tuple[float, ...]
    peak_memory: int | None
    plain_peak_memory: int | None
    syncs_per_step: float | None
    plain_syncs_per_step: float | None
    plain_seconds_per_step: float
    cache_bytes: int | None = None

    @property
    def of_ideal(self) -> float | None:
        return None if self.ideal is None else self.speedup / self.ideal


@dataclass(frozen=True)
class OneShot:
    """The first image of all with default arguments, beside a plain one.

    Attributes:
        first_step: in steps of the plain model.
    """

    steps: int
    interval: int
    engine: str
    full_steps: int
    first_step: float
    speedup: float
    ideal: float | None

    @property
    def of_ideal(self) -> float | None:
        return None if self.ideal is None else self.speedup / self.ideal


@dataclass(frozen=True)
class RivalRow:
    """A method's steps in steps of the plain model, or why it does not run.

    FirstBlockCache has one full step, the first.
    """

    method: str
    first_step: float | None = None
    full_step: float | None = None
    cached_step: float | None = None
    error: str | None = None
