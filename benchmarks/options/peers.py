"""The options of `skipcache peers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcache.benchmarks.names.peers import PEERS
from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, several
from skipcache.benchmarks.options.option import option

CALIBRATION_SEED = 1000  # and beyond: no method is measured on what it was calibrated or tuned on
FEW_STEPS = {"dpm++": 20}  # samplers that need fewer than the others


@dataclass(frozen=True)
class PeersSettings(Checked):
    """Other caches at equal compute; `targets` are speedups by FLOPs."""

    model: str = shared.model()
    weights: Path | None = shared.weights()
    scheduler: str = shared.scheduler()
    steps: int = shared.steps(
        least=4, why="fewer leave no room for three speedups", shown="50; 28 for models of flow; 20 for dpm++"
    )
    guidance: float = shared.guidance()
    batch: int = shared.batch(12, "images per run")
    targets: tuple[float, ...] = option((1.5, 2.2, 3.0), "speedups by FLOPs to tune for", check=several)
    methods: tuple[str, ...] = option(
        tuple(PEERS), "what is compared", metavar="METHOD", choices=tuple(PEERS), check=several, shown="all"
    )
    seeds: tuple[int, ...] = shared.seeds((0, 1, 2), "one pair of runs for each")
    threads: int | None = shared.threads()
    out: Path = shared.out("peers-out")

    def __post_init__(self) -> None:
        super().__post_init__()
        shared.check_scheduler(self.model, self.scheduler)
        if max(self.seeds) >= CALIBRATION_SEED:
            raise ValueError(
                f"--seeds: expected numbers below {CALIBRATION_SEED}, from which on methods are tuned, "
                f"got {max(self.seeds)}"
            )
        if not min(self.targets) > 1:
            raise ValueError(f"--targets: expected speedups above 1, got {' '.join(map(str, self.targets))}")

    @classmethod
    def of(cls, given: dict[str, Any]) -> PeersSettings:
        steps = FEW_STEPS.get(given.get("scheduler", cls.scheduler), cls.steps)
        return cls(**{"steps": steps, **shared.usual(given.get("model", cls.model)), **given})
