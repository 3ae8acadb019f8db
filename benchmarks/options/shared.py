"""The fields of options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skipcache.benchmarks.names.models import FLOWS, REFERENCES
from skipcache.benchmarks.names.predictors import PREDICTORS
from skipcache.benchmarks.names.schedulers import FLOW_STEPS, SCHEDULERS, TRAIN_STEPS, samplers_of
from skipcache.benchmarks.options.checks import a_folder, a_weights_file, both_ends, several
from skipcache.benchmarks.options.option import option

DTYPES = ("float32", "bfloat16", "float16")


def model() -> Any:
    return option("dit-digits", "reference denoiser", choices=tuple(REFERENCES))


def models(*default: str) -> Any:
    return option(default, "reference denoisers", flag="--model", choices=tuple(REFERENCES), check=several)


def weights() -> Any:
    help = "a .safetensors file of `skipcache train`, used in place of the shipped one"
    return option(None, help, metavar="FILE", check=a_weights_file)


def steps(default: int = 50, least: int = 2, why: str = "one step leaves nothing to reuse", shown: str = "") -> Any:
    return option(default, "sampler steps", least=least, most=TRAIN_STEPS, why=why, shown=shown)


def scheduler() -> Any:
    return option("ddim", "sampler", choices=tuple(SCHEDULERS), shown=f"ddim; euler for {' '.join(FLOWS)}")


def usual(model: str) -> dict[str, Any]:
    """The sampler and its steps where a model has others than the rest."""
    return {"scheduler": "euler", "steps": FLOW_STEPS} if model in FLOWS else {}


def check_scheduler(model: str, scheduler: str) -> None:
    if scheduler not in samplers_of(model):
        raise ValueError(
            f"--scheduler: expected one of {', '.join(samplers_of(model))}, which know the rectified flow of {model}, "
            f"got {scheduler!r}"
        )


def guidance() -> Any:
    return option(3.0, "guidance scale")


def batch(default: int | None, help: str, least: int = 2, why: str = "a standard error needs two images") -> Any:
    return option(default, help, least=least, most=10_000, why=why)


def intervals(default: tuple[int, ...], least: int, why: str) -> Any:
    return option(default, "every n-th step is full", least=least, most=TRAIN_STEPS, why=why, check=several)


def predictors(*default: str) -> Any:
    return option(default, "predictors of cached steps", flag="--predictor", choices=tuple(PREDICTORS), check=several)


def keep() -> Any:
    return option(
        (1, 1),
        "units run on cached steps: at both ends, or HEAD TAIL",
        least=0,
        why="it counts the units run at each end on a cached step",
        convert=both_ends,
        shown="1",
    )


def seeds(default: tuple[int, ...], help: str) -> Any:
    return option(default, help, check=several)


def threads() -> Any:
    return option(None, "CPU threads", least=1, most=1024, why="leave it out for all cores", shown="all cores")


def out(default: str, what: str = "the results") -> Any:
    return option(Path(default), f"folder for {what}", metavar="FOLDER", check=a_folder)
