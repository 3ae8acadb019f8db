"""The methods that `skipcache peers` compares: skipcache's own, fewer sampler steps, and the caches of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A method at its place in tables and pictures.

    Attributes:
        label: in tables and pictures.
        library: whose it is; "" for the plain model.
        made_by: `module.name` in `peers` of what makes it, called as `name(name=, label=, library=, **options)`.
        colour, marker, line: its style. A library is a shape, and methods that belong together share a colour
            (of Okabe and Ito's, for the colour-blind).
    """

    label: str
    library: str
    made_by: str
    colour: str
    marker: str
    line: str
    options: tuple[tuple[str, Any], ...] = ()


TAYLOR, LITE, HOLD = ("calibrator", "taylorseer"), ("lite", True), ("predictor", "hold")
PEERS = {
    "skipcache": Peer("skipcache, calibrated", "skipcache", "ours.Calibrated", "#0072B2", "o", "-"),
    "speedup": Peer("skipcache, speedup=", "skipcache", "ours.speedup", "#0072B2", "o", "--"),
    "threshold": Peer("skipcache, Threshold", "skipcache", "ours.threshold", "#56B4E9", "o", "--"),
    "uniform-damped": Peer("skipcache, uniform, Damped", "skipcache", "ours.Uniform", "#56B4E9", "o", "-"),
    "uniform-hold": Peer("skipcache, uniform, Hold", "skipcache", "ours.Uniform", "#56B4E9", "o", ":", (HOLD,)),
    "fewer-steps": Peer("plain, fewer steps", "", "ours.FewerSteps", "#333333", "D", "--"),
    "dbcache": Peer("DBCache", "cache-dit", "dbcache.DBCache", "#D55E00", "s", ":"),
    "dbcache-taylorseer": Peer("DBCache, TaylorSeer", "cache-dit", "dbcache.DBCache", "#D55E00", "s", "-", (TAYLOR,)),
    "scm": Peer("DBCache, SCM", "cache-dit", "dbcache.StepsMask", "#E69F00", "s", ":"),
    "scm-taylorseer": Peer(
        "DBCache, SCM, TaylorSeer", "cache-dit", "dbcache.StepsMask", "#E69F00", "s", "-", (TAYLOR,)
    ),
    "fbcache": Peer("FirstBlockCache", "diffusers", "blocks.FirstBlockCache", "#009E73", "^", "-"),
    "magcache": Peer("MagCache", "diffusers", "blocks.MagCache", "#009E73", "v", ":"),
    "taylorseer": Peer("TaylorSeerCache", "diffusers", "blocks.TaylorSeer", "#CC79A7", "^", "-"),
    "taylorseer-lite": Peer(
        "TaylorSeerCache, whole stack", "diffusers", "blocks.TaylorSeer", "#CC79A7", "v", ":", (LITE,)
    ),
    "pab": Peer("PyramidAttentionBroadcast", "diffusers", "attention.PyramidAttentionBroadcast", "#999999", "^", "-"),
    "fastercache": Peer("FasterCache", "diffusers", "attention.FasterCache", "#999999", "v", ":"),
}
