"""Which engine is tried first. `auto` begins with hooks, whose first step is almost a plain one; it buys graphs later.

On an H200 (FLUX.1-dev, Wan 1.3B, PixArt-XL, Latte-XL, DiT-XL/2; bf16, interval 3) the graph's first step costs 1.3 to
5.3 plain steps more than that of hooks, and makes each cached step afterwards up to 0.03 of a plain one cheaper, mostly
0.01. So it pays after some hundred cached steps, when most programs are over.
"""

from __future__ import annotations

from collections.abc import Sequence

from skipcache.engines.engine import Engine
from skipcache.engines.recent import Recent
from skipcache.trajectory import Call

WORTH = 400  # cached steps of one signature that make up for the trace of its graphs
MAX_SIGNATURES = 64


class Order:
    """The order in which engines are tried.

    Args:
        engines: the quickest to begin first, the quickest in the long run last; one engine is all there is.
        at_once: the last one is tried first from the beginning.
    """

    def __init__(self, engines: Sequence[Engine], at_once: bool = False) -> None:
        self._waiting = tuple(engines)
        self._bought = tuple(reversed(self._waiting))
        self._at_once = at_once
        self._cached: Recent[int] = Recent(MAX_SIGNATURES)

    def for_full(self, call: Call) -> tuple[Engine, ...]:
        """Engines for a full step: the long run's first where it serves this signature, or is worth its first step."""
        due = self._at_once or (self._cached.get(call.signature) or 0) >= WORTH
        return self._bought if due or self._bought[0].serves(call) else self._waiting

    def for_cached(self) -> tuple[Engine, ...]:
        """Engines for a cached step: that which serves, the long run's before others."""
        return self._bought

    def cached(self, call: Call) -> None:
        """A cached step was made."""
        if len(self._bought) > 1 and not self._at_once:
            self._cached.put(call.signature, 1 + (self._cached.get(call.signature) or 0))
