"""A zoo of tiny random-weight denoisers: every transformer denoiser of diffusers, by name.

`ZOO[name].build(seed)` gives the model, `ZOO[name].inputs(seed, t)` the arguments of its forward.
"""

from .entry import Entry, randomise, table
from .families import FAMILIES
from .images import IMAGES
from .packed import PACKED
from .sounds import SOUNDS
from .unified import UNIFIED
from .videos import VIDEOS
from .wans import WANS

__all__ = ["ZOO", "Entry", "randomise"]

ZOO = table(FAMILIES, IMAGES, PACKED, UNIFIED, VIDEOS, WANS, SOUNDS)
