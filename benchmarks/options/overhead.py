"""The options of `skipcache overhead`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked, a_program
from skipcache.benchmarks.options.option import option


@dataclass(frozen=True)
class OverheadSettings(Checked):
    """The host's time per call, on a model that computes almost nothing."""

    rounds: int = option(7, "rounds; in each, every way to run has its turn", least=1, most=1000, why="it is a count")
    runs: int = option(2, "sampling runs of each way in a round", least=1, most=1000, why="it is a count")
    beside: Path | None = option(
        None,
        "the Python of an environment with another version of skipcache, to be timed in turns",
        metavar="PYTHON",
        check=a_program,
        shown="none",
    )
    out: Path = shared.out("bench-out")
