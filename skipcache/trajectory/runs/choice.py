"""Which of several runs a call is of, by what each of them says; where that is in doubt it begins one."""

from __future__ import annotations

from collections.abc import Sequence

from skipcache.trajectory.places import ROUNDING, Fits, NewRun, Place, Repeat
from skipcache.trajectory.span import GROWTH, LEAST
from skipcache.trajectory.time import Instant
from skipcache.trajectory.trajectory import Trajectory

ALIKE = 1.5  # large turns that differ by less than this factor tell nothing of two runs

Placed = tuple[Trajectory, Place]
Fitting = tuple[Trajectory, Fits]


def best_of(places: Sequence[Placed]) -> tuple[Placed | None, list[Fitting]]:
    """Of a thread's runs, the latest first, the one that the call is of, and those that it surely fits."""
    sure = [(run, place) for run, place in places if isinstance(place, Fits) and place.is_sure]
    found: Placed | None = surest(sure)
    if found is None and not sure:
        repeats = [(run, place) for run, place in places if isinstance(place, Repeat)]
        found = next(iter([one for one in places[:1] if isinstance(one[1], Fits)] or repeats), None)
    return found, sure


def of_others(places: Sequence[Placed], here: Sequence[Placed], perhaps_here: bool) -> list[Fitting]:
    """Of other threads' runs those that the call surely fits. `here` are those of its own thread.

    Where it may be of one of these, or where all but its sample fits one, whose sampler may draw noise, another
    thread's must fit by its sample, without noise.
    """
    ours = perhaps_here or any(isinstance(place, NewRun) and place.instead for _, place in here)
    sure = [(run, place) for run, place in places if isinstance(place, Fits) and place.is_sure]
    return [(run, place) for run, place in sure if not ours or (place.turn is not None and place.turn <= LEAST)]


def none_of(places: Sequence[Placed], instant: Instant, several: bool) -> NewRun:
    """The call begins a run, and those that it may have been of are in doubt.

    `several`: it fits more than one, and which cannot be told.
    """
    begins = [(run, place) for run, place in places if isinstance(place, NewRun)]
    unread = [run for run, fits in places if isinstance(fits, Fits) and fits.turn is None and fits.lane is not None]
    for run, place in begins:
        run.doubt(place, instant.run)
    for run in unread if several else ():
        run.doubt(NewRun(in_turns=True), instant.run)
    senses = {run.direction.sense for run, place in begins if place.instead}
    return NewRun(
        several or bool(unread) or any(place.in_turns for _, place in begins),
        any(place.instead for _, place in begins),
        begins[0][1].turn if begins and begins[0] == places[0] else None,
        senses.pop() if len(senses) == 1 else 0,
    )


def surest(sure: Sequence[Fitting]) -> Fitting | None:
    """Of runs that nothing but the sample tells apart, the one that the call is of; None where that is in doubt."""
    if len(sure) > 1 and any(place.turn is None for _, place in sure):
        return None
    return nearest(sure) if sure else None


def nearest(fitting: Sequence[Fitting]) -> Fitting | None:
    """The run whose sample turned least; one that knows the call's lane goes before one to which the lane is new.

    Of those that turned by no more than rounding may explain it is the latest. None where the samples turned so much
    that the next best is as likely.
    """
    least = min(place.turn or 0.0 for _, place in fitting)
    near = [(run, place) for run, place in fitting if (place.turn or 0.0) <= max(LEAST, GROWTH * least)]
    known = [(run, place) for run, place in near if place.lane is not None] or fitting
    turns = sorted(place.turn or 0.0 for _, place in known)
    if len(turns) > 1 and turns[0] > LEAST and turns[1] <= ALIKE * turns[0]:
        return None
    return next((run, place) for run, place in known if (place.turn or 0.0) <= max(ROUNDING, turns[0]))
