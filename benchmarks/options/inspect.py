"""The options of `skipcache inspect`."""

from __future__ import annotations

from dataclasses import dataclass

from skipcache.benchmarks.options import shared
from skipcache.benchmarks.options.checks import Checked
from skipcache.benchmarks.options.option import option, positional


def _pairs(name: str, values: tuple[str, ...]) -> None:
    for pair in values:
        key, separator, _ = pair.partition("=")
        if not (key and separator):
            raise ValueError(f"{name}: expected KEY=VALUE, got {pair!r}; such as --config num_layers=28")


@dataclass(frozen=True)
class InspectSettings(Checked):
    """What skipcache finds in a model."""

    model: str = positional(
        "a model class of diffusers, such as PixArtTransformer2DModel, or a folder with its config.json"
    )
    keep: tuple[int, int] = shared.keep()
    config: tuple[str, ...] = option((), "settings that differ from the config", metavar="KEY=VALUE", check=_pairs)
    graph: bool = option(False, "print the fx engine's two graphs as code")
