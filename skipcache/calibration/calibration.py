"""What `calibrate` found, and what for: full steps, units kept and output corrections, to be saved and used again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch import nn

from skipcache.blocks import class_name
from skipcache.calibration.check import quantile
from skipcache.policies import Placed
from skipcache.predictors import Damped, Forecast
from skipcache.runtime import Corrections

FORMAT = 3  # of the files; 2 had no `errors`, and 1 no number, and `damped` in the place of `predictor`
PREDICTORS = MappingProxyType({"forecast": Forecast(1), "damped": Damped()})  # by their names in files
NAMES = MappingProxyType({predictor: name for name, predictor in PREDICTORS.items()})


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found, and what for. `accelerate(target, calibration=...)` uses it.

    Attributes:
        model, depth: the denoiser's class and the number of units in its stack.
        keep: (head, tail), the units that a cached step runs.
        timesteps: of the run that it was made on; as many as it had steps.
        full_steps: the steps that run all blocks, counted from 0.
        error: how far the last state of a run strayed from the uncached run's, over its size, as a geometric mean over
            the calibration's own samples; new samples stray a little further.
        speedup: FLOPs of an uncached run over those of this one.
        scheduler: the class of the pipeline's scheduler, if there was one.
        guidance: the scale of classifier-free guidance, if it could be told from the run.
        corrections: by step, the slopes of the forecast and the scalars that are added to the output; None where they
            did not help.
        predictor: `Forecast(1)` or `Damped()`.
        errors: how far each sample of `check` strayed, its difference over the uncached one, the least first; empty
            where nothing was checked.

    Example:
        found.save("dit-50-steps.json")
        skipcache.accelerate(pipe, calibration=skipcache.Calibration.load("dit-50-steps.json"))
    """

    model: str
    depth: int
    keep: tuple[int, int]
    timesteps: tuple[float, ...]
    full_steps: tuple[int, ...]
    error: float
    speedup: float
    scheduler: str | None = None
    guidance: float | None = None
    corrections: Corrections | None = None
    predictor: Forecast | Damped = field(default_factory=Forecast)
    errors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (*self.timesteps, self.error, self.speedup, *self.errors)
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise ValueError(f"Calibration: expected finite numbers for timesteps, speedup and errors, got {numbers}")
        if self.predictor not in PREDICTORS.values():
            raise ValueError(f"Calibration: expected Forecast(1) or Damped() as predictor, got {self.predictor!r}")
        if self.predictor == Damped() and self.corrections is not None and self.corrections.slopes:
            raise ValueError("Calibration: slopes are those of Forecast(1), and Damped finds its own; give one")

    @property
    def policy(self) -> Placed:
        return Placed(self.full_steps, self.timesteps, self.scheduler)

    def bound(self, level: float = 0.9) -> float:
        """What the error of a new sample, like those of `check`, stays below with probability `level`.

        It rests on the checked samples alone. Of few of them the share that stays below is itself in doubt: by about
        sqrt(level * (1 - level) / n), 0.03 for 100 samples at 0.9. Raises ValueError where nothing was checked, or too
        few.
        """
        return quantile(self.errors, level)

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Between what the error of a new sample lies with probability `level`, as many below as above. See `bound`."""
        above = (1 - level) / 2
        low = [-x for x in self.errors]
        return -quantile(low, 1 - above), quantile(self.errors, 1 - above)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file; returns its path. `load` reads it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {**asdict(self), "predictor": NAMES[self.predictor]}
        path.write_text(json.dumps({"skipcache": "calibration", "format": FORMAT, **facts}) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote, in this version or an earlier one.

        Raises ValueError where the file is of another kind, cut off, or written by a newer version.
        """
        try:
            facts = json.loads(Path(path).read_text())
            if facts.pop("skipcache") != "calibration":
                raise ValueError("another kind of file")
            written = facts.pop("format", 1)
            if written not in range(1, FORMAT + 1):
                raise ValueError(f"expected a format up to {FORMAT}, got {written}; update skipcache")
            if written == 1:
                facts["predictor"] = "damped" if facts.pop("damped", False) else "forecast"
            facts["predictor"] = PREDICTORS[facts["predictor"]]
            facts |= {name: tuple(facts.get(name, ())) for name in ("keep", "timesteps", "full_steps", "errors")}
            if facts["corrections"] is not None:
                scalars, slopes = facts["corrections"]["scalars"], facts["corrections"]["slopes"]
                facts["corrections"] = Corrections(tuple(map(tuple, scalars)), tuple(slopes))
            found = cls(**facts)
            found.policy  # noqa: B018 (it raises for places that cannot be)
            return found
        except FileNotFoundError:
            raise ValueError(f"expected a calibration at {path}, found none") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no calibration that skipcache wrote, or is cut off: {error!r}") from error

    def check(self, model: nn.Module, depth: int) -> None:
        """Raises ValueError where `model` is another one than it was made for."""
        name = class_name(model)
        if (name, depth) != (self.model, self.depth):
            raise ValueError(
                f"calibration: it was made for a {self.model} of {self.depth} units, "
                f"but the model is a {name} of {depth}; calibrate this one"
            )
