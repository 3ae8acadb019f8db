"""The predictors: how tables call each, what it is, and how pictures draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import skipcache


@dataclass(frozen=True)
class NamedPredictor:
    """`order` is the place in the legend of a picture, from 0. Colours are Okabe and Ito's, for the colour-blind."""

    label: str
    predictor: Any
    colour: str
    marker: str
    order: int


PREDICTORS = {
    "hold": NamedPredictor("Hold", skipcache.Hold(), "#D55E00", "s", 2),
    "delta": NamedPredictor("Delta", skipcache.Delta(), "#009E73", "^", 3),
    "forecast": NamedPredictor("Forecast(1)", skipcache.Forecast(1), "#56B4E9", "P", 1),
    "damped": NamedPredictor("Damped", skipcache.Damped(), "#0072B2", "o", 0),
}


def label_of(name: str) -> str:
    return PREDICTORS[name].label


def make_predictor(name: str) -> Any:
    return PREDICTORS[name].predictor
