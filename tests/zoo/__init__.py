"""A zoo of tiny random-weight denoisers: every transformer denoiser of diffusers, by name.

`ZOO[name].build(seed)` gives the model, `ZOO[name].inputs(seed, t)` the arguments of its forward.
"""

from .entry import Entry, randomise, table
from .families import FAMILIES

__all__ = ["ZOO", "Entry", "randomise"]

ZOO = table(FAMILIES)
