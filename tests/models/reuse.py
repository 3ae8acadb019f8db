"""Whose features a call took, by what an engine says that it did."""

from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch
from weakref import WeakKeyDictionary

from skipcache.runtime.forward import CachedForward


class Taken(NamedTuple):
    """One call: the name of it, "full", "cached" or "plain", and the name of the call whose features it took."""

    name: object
    how: str
    whose: object = None


@contextmanager
def watched(who):
    """A list of `Taken`, one for each call of any accelerated model. `who()` names the call that is under way."""
    log, owners = [], WeakKeyDictionary()
    step, repeat = CachedForward._step, CachedForward._repeat

    def stepped(self, call, visit):
        name, cache = who(), visit.lane.cache
        whose = owners.get(cache)
        result = step(self, call, visit)
        if result.features is not None:
            owners[cache] = name
        log.append(Taken(name, "full") if result.full else Taken(name, "cached", whose))
        return result

    def repeated(self, call, *rest):
        log.append(Taken(who(), "plain"))
        return repeat(self, call, *rest)

    with patch.object(CachedForward, "_step", stepped), patch.object(CachedForward, "_repeat", repeated):
        yield log


def wrong(log):
    """Calls that took another one's features."""
    return [taken for taken in log if taken.how == "cached" and taken.whose != taken.name]


def count(log, how):
    return sum(taken.how == how for taken in log)
