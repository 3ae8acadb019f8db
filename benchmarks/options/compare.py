"""The options of `skipcache compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked
from skipcache.benchmarks.options.option import option, positional


def _samples(name: str, path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{name}: expected a folder of samples, found nothing at {path}; check the path")
    if not path.is_dir() and path.suffix != ".npz":
        raise ValueError(f"{name}: expected a folder, or a sample file that ends in .npz, got the file {path}")


@dataclass(frozen=True)
class CompareSettings(Checked):
    """Which two sets of samples are compared; B is the reference."""

    a: Path = positional("a folder of pictures or videos, or a sample file (.npz with arr_0)", check=_samples)
    b: Path = positional("the same of the reference, such as the uncached run", check=_samples)
    npz: bool = option(False, "also write A.npz and B.npz, as ADM's evaluation suite reads them: arr_0, uint8 NHWC")
    threads: int | None = shared.threads()
    out: Path = shared.out("compare-out")
