"""The options of `skipcache publish`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipcache.benchmarks.options.checks import Checked
from skipcache.benchmarks.options.option import option, positional


@dataclass(frozen=True)
class PublishSettings(Checked):
    """Which results are taken into the docs of which checkout."""

    runs: tuple[Path, ...] = positional(
        "folders of `skipcache peers` to take in (default: none)", default=(), metavar="RUN", nargs="*"
    )
    root: Path = option(Path(), "the checkout whose docs are written", metavar="FOLDER", shown="this folder")
