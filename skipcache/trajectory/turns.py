"""By how much the samples of one run have turned at its steps, and what that allows the next ones."""

from __future__ import annotations

from collections.abc import Hashable

from skipcache.blocks import on_host
from skipcache.trajectory.call import Call
from skipcache.trajectory.lanes import Found
from skipcache.trajectory.places import NewRun
from skipcache.trajectory.span import ODD, RECENT, Turn
from skipcache.trajectory.time import Instant, direction


class Turns:
    """Of one run. Samples of other shapes have a history of their own: areas of one image turn by more than the whole.

    Attributes:
        strict: the run began where another one was expected to go on, and nothing is known of its sampler; or another
            one began where this one was.
    """

    def __init__(self, begun: NewRun | None = None) -> None:
        self._first = [] if begun is None or begun.turn is None else [begun.turn]
        self.strict = begun is not None and begun.instead and begun.turn is None
        self._sizes: dict[Hashable, list[float]] = {}

    def of(self, call: Call) -> list[float]:
        """The last ones of samples like the call's, the latest last."""
        return self._sizes.get(call.sample_structure, self._first)

    def note(self, call: Call, size: float) -> None:
        self._sizes[call.sample_structure] = [*self.of(call)[1 - RECENT :], size]

    def allow(self, call: Call, turn: Turn, instant: Instant, last: Instant, moved: bool = False) -> bool:
        """The sample goes on from that at `last`. Rising timesteps, too, are those of samplers that draw no noise (flow
        models, inversion). One that has `moved` in its memory, as a window does, may turn by rounding alone."""
        run = instant.run
        if moved:
            return turn.size <= turn.least
        if run is not None and not run.is_linear:
            return turn.fits([], self.strict)  # it may clip, or draw noise, and out of the blue
        calm = run is not None or direction(last.timesteps, instant.timesteps) == 1
        return turn.fits(self.of(call), self.strict, calm)

    def instead(self, call: Call, turn: Turn) -> NewRun:
        """Where a run whose samples went on has turned more than before, the new run knows by how much."""
        known = bool(self.of(call)) and not self.strict and turn.size <= ODD
        return NewRun(instead=True, turn=turn.size if known else None)


def reads(call: Call, instant: Instant, found: Found | None = None) -> bool:
    """The sample is evidence: on the host, and on a device where something else was read there already."""
    if any(x.is_meta for x in call.samples) or (instant.run is not None and instant.run.is_noisy):
        return False
    lane = None if found is None else found.lane
    doubt = found is not None and lane is not None and (not found.is_same or lane.is_moved(call))
    return instant.run is None or on_host(call.sample) or doubt
