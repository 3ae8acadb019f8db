"""What `calibrate` found, and what for: full steps, units kept and output corrections, to be saved and used again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from skipcache.policies.placed import Placed
from skipcache.predictors.base import Damped, Forecast
from skipcache.runtime.corrections import Corrections


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
        damped: the predictor is `Damped()`, not `Forecast(1)`.
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
    damped: bool = False

    def __post_init__(self) -> None:
        if self.damped and self.corrections is not None and self.corrections.slopes:
            raise ValueError("Calibration: slopes are those of Forecast(1), and Damped finds its own; give one")

    @property
    def policy(self) -> Placed:
        return Placed(self.full_steps, self.timesteps, self.scheduler)

    @property
    def predictor(self) -> Forecast | Damped:
        return Damped() if self.damped else Forecast(1)

    def save(self, path: str | Path) -> Path:
        """As JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"skipcache": "calibration", **asdict(self)}) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Raises ValueError where the file is not one that `save` wrote."""
        try:
            facts = json.loads(Path(path).read_text())
            if facts.pop("skipcache") != "calibration":
                raise ValueError("another kind of file")
            facts |= {name: tuple(facts[name]) for name in ("keep", "timesteps", "full_steps")}
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
        name = type(model).__name__
        if (name, depth) != (self.model, self.depth):
            raise ValueError(
                f"calibration: it was made for a {self.model} of {self.depth} units, "
                f"but the model is a {name} of {depth}; calibrate this one"
            )
