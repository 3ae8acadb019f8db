"""Which run a call belongs to: the one owner of identity. Calls -> (run, step, lane), with no reset by the user.

A run belongs to the calling thread. Runs that are called in turns on one thread, and a run whose steps hop over
threads, are told apart by their schedulers' timesteps and by their samples.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from skipcache.policies import Policy
from skipcache.predictors import Predictor
from skipcache.trajectory.cache import keep_to
from skipcache.trajectory.call import Call
from skipcache.trajectory.lanes import Habits
from skipcache.trajectory.places import ROUNDING, Fits, NewRun, Place, Repeat, Visit
from skipcache.trajectory.processes import Processes
from skipcache.trajectory.runs.choice import Fitting, Placed, best_of, none_of, of_others, surest
from skipcache.trajectory.runs.threads import Thread, Threads
from skipcache.trajectory.time import Instant
from skipcache.trajectory.trajectory import Trajectory
from skipcache.trajectory.word import Word

MAX_RUNS = 8  # on one thread
MAX_NAMED = 64  # runs that clients have named; the one called longest ago goes first


class Runs:
    """All runs of one model. `visit` places a call."""

    def __init__(self, policy: Policy, predictor: Predictor, ignored: Callable[[], tuple[Tensor, ...]] = tuple) -> None:
        self.policy, self.predictor = policy, predictor
        self._ignored, self._threads = ignored, Threads(ignored)
        self.processes: Processes | None = None  # that hold the model together
        self.named: dict[str, Trajectory] = {}
        self._calls, self._habits = 0, Habits()
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Runs:
        """A copy has none of the runs."""
        return type(self)(self.policy, self.predictor, self._ignored)

    def visit(self, call: Call, schedulers: Sequence[Any] = (), counts: bool = True) -> Visit | Repeat:
        """Where `call` stands. A `Repeat` must run plain. What the model answers is to be noted by either.

        The lane is entered, so that another call of it is known as another step. `counts`: see `Clock.read`.
        """
        with self._lock:
            thread = self._threads.here
            try:
                instant = thread.clock.read(call, schedulers, counts)
                return self._settled(
                    call,
                    lambda: self._visit(call, instant, thread, *self._find(call, instant, thread)),
                    lambda: self._visit(call, instant, thread, None, NewRun()),
                )
            except BaseException:
                thread.runs.clear()
                raise

    def _settled(
        self, call: Call, place: Callable[[], Visit | Repeat], anew: Callable[[], Visit | Repeat]
    ) -> Visit | Repeat:
        """What `place` says; the same on all processes that hold the model together."""
        return place() if self.processes is None else self.processes.settle(call, place, anew)

    def _visit(
        self, call: Call, instant: Instant, thread: Thread, run: Trajectory | None, place: Place
    ) -> Visit | Repeat:
        """`run` is the one that `place` is of; None: forget all of them, and begin anew."""
        if isinstance(place, Repeat):
            return place
        if run is None:
            thread.runs.clear()
        if run is None or isinstance(place, NewRun):
            run, instant = self._begin(place if run and isinstance(place, NewRun) else NewRun(), instant, thread)
        self._hold(run, thread)
        self._count(run)
        return run.enter(call, place, instant)

    def visit_named(self, call: Call, word: Word) -> Visit | Repeat:
        """Where `call` stands in the run that the client has named. The client is taken at its word."""
        with self._lock:
            known = self.named.pop(word.name, None)
            run = known if known is not None and self._is_said(known, word) else self._named(word)
            self.named[word.name] = run  # the latest is the last
            while len(self.named) > MAX_NAMED:
                del self.named[next(iter(self.named))]
            instant = Instant.of(call.timestep, run.said)
            if word.step is not None:
                instant = replace(instant, position=word.step)
            return self._settled(
                call,
                lambda: self._visit_said(call, instant, word, run, run.place(call, instant)),
                lambda: self._visit_said(call, instant, word, run, NewRun()),
            )

    def _visit_said(self, call: Call, instant: Instant, word: Word, run: Trajectory, place: Place) -> Visit | Repeat:
        if isinstance(place, Repeat):
            return place
        if isinstance(place, NewRun) and run.at is not None:
            run = self.named[word.name] = self._named(word)
        self._count(run)
        return run.enter(call, place, instant)

    def _is_said(self, run: Trajectory, word: Word) -> bool:
        return word.is_of(run.said, run.policy, self.policy)

    def _named(self, word: Word) -> Trajectory:
        return Trajectory(word.policy or self.policy, self.predictor, None, word.run, word.name, self._habits)

    def forget(self, name: str) -> None:
        """The named run has ended."""
        with self._lock:
            self.named.pop(name, None)

    def release(self) -> None:
        """Drop all features: the next step of each run is full."""
        for run in self.all:
            run.release()

    def keep_to(self, limit: int | None, latest: Trajectory) -> int:
        """Drop features, those of the runs called longest ago first, until all take `limit` bytes; how many runs' were.

        Those of `latest` go last.
        """
        if limit is None:
            return 0
        with self._lock:
            return keep_to(limit, sorted(self.all, key=lambda run: (run is latest, run.used)))

    def _count(self, run: Trajectory) -> None:
        self._calls += 1
        run.used = self._calls

    def drop(self, run: Trajectory | None = None) -> None:
        """Forget a run of the calling thread, or all of them: its next call begins another one."""
        with self._lock:
            thread = self._threads.here
            thread.runs[:] = [other for other in thread.runs if run is not None and other is not run]
            if run is not None and run.named is not None:
                self.named.pop(run.named, None)

    @property
    def all(self) -> list[Trajectory]:
        with self._lock:
            return [*self.named.values(), *self._threads.runs]

    @property
    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        return [x for run in self.all for x in run.tensors]

    @property
    def latest(self) -> Trajectory:
        """The calling thread's; an empty one before its first call."""
        runs = self._threads.here.runs
        return runs[0] if runs else Trajectory(self.policy, self.predictor)

    # Which run

    def _find(self, call: Call, instant: Instant, thread: Thread) -> Placed:
        """The run that `call` fits best; where it fits none, the latest one, and what that one says."""
        places: list[Placed] = []
        since: list[Instant] = []
        for run in thread.runs:
            place = run.place(call, instant, since)
            if not places and (isinstance(place, Repeat) or (isinstance(place, Fits) and place.is_best)):
                return run, place
            places.append((run, place))
            since += [] if run.at is None else [run.at.instant]
        found, sure = best_of(places)
        if found is None or (isinstance(found[1], Fits) and not found[1].is_sure):
            found = self._elsewhere(call, instant, thread, places, found is not None) or found
        return found or (Trajectory(self.policy, self.predictor), none_of(places, instant, bool(sure)))

    def _elsewhere(
        self, call: Call, instant: Instant, thread: Thread, here: Sequence[Placed], perhaps_here: bool
    ) -> Fitting | None:
        """The run of another thread that `call` goes on with, if one is the likeliest. `perhaps_here`: it may be a new
        lane of a run of this thread."""
        places = [(run, run.place(call, instant)) for run in dict.fromkeys(self._threads.elsewhere(thread))]
        sure = of_others(places, here, perhaps_here)
        going = [(run, place) for run, place in sure if place.steps or place.lane is not None]
        known = [one for one in going if one[1].lane is not None]
        found = surest(known if known or perhaps_here else going)
        for run, place in sure if found is None else ():
            # Perhaps a lane of a run that hops over threads.
            if place.steps == 0 and place.lane is None and place.turn is not None and place.turn <= ROUNDING:
                self._threads.share(thread, run)
        for run, one in places if found is None else ():
            if one.instead if isinstance(one, NewRun) else isinstance(one, Fits) and (run, one) not in sure:
                run.doubt(NewRun(instead=True), instant.run)
        return found

    def _begin(self, place: NewRun, instant: Instant, thread: Thread) -> tuple[Trajectory, Instant]:
        """A new run. One that its scheduler did not announce is placed by its timesteps alone."""
        last = thread.runs[0].at if thread.runs else None
        beside = place.instead or place.in_turns
        if last is not None and not beside and instant.is_unannounced(last.instant):
            thread.clock.forget(instant.run)
            instant = instant.alone
        self._release(instant, thread)
        return Trajectory(self.policy, self.predictor, place, habits=self._habits), instant

    def _release(self, instant: Instant, thread: Thread) -> None:
        """A run begins at `instant`: those before it keep their features if they seem to go on beside it."""
        for run in thread.runs:
            at = run.at
            began_now = at is not None and at.before < 0 and at.instant.mark.same_or_equal(instant.mark)
            if not (run.goes_on or began_now):
                run.release()
            run.goes_on = began_now

    def _hold(self, run: Trajectory, thread: Thread) -> None:
        """`run` is the thread's latest from now on. One that comes from another thread may go back to it, and others
        may come with it: the two threads share their runs from then on."""
        if thread.runs and thread.runs[0] is run:
            return
        if run not in thread.runs:
            self._threads.share(thread, run)
        runs = thread.runs
        runs[:] = [run, *(one for one in runs if one is not run)][: MAX_RUNS * self._threads.sharers(runs)]
