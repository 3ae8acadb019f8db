"""The runs of each thread. Threads between which a run's steps hop share all that they have."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from torch import Tensor

from skipcache.trajectory.time import Clock
from skipcache.trajectory.trajectory import Trajectory


class Thread:
    """The runs of one thread, the latest first, and its clock."""

    def __init__(self, ignored: tuple[Tensor, ...]) -> None:
        self.runs: list[Trajectory] = []
        self.clock = Clock(ignored)


class Threads:
    """Those that call one model. `ignored` gives timesteps that tell no run."""

    def __init__(self, ignored: Callable[[], tuple[Tensor, ...]]) -> None:
        self._ignored = ignored
        self._local = threading.local()
        self._all: weakref.WeakSet[Thread] = weakref.WeakSet()

    @property
    def here(self) -> Thread:
        """The calling one."""
        found: Thread | None = getattr(self._local, "thread", None)
        if found is None:
            found = self._local.thread = Thread(self._ignored())
            self._all.add(found)
        return found

    @property
    def runs(self) -> list[Trajectory]:
        """Of all threads, each once."""
        return list({run: None for thread in list(self._all) for run in thread.runs})

    def elsewhere(self, thread: Thread) -> list[Trajectory]:
        """The runs of threads that share nothing with `thread`."""
        return [run for other in list(self._all) if other.runs is not thread.runs for run in other.runs]

    def share(self, thread: Thread, run: Trajectory) -> None:
        """`thread` and the one of `run`, if another one has it, share all their runs."""
        mine, theirs = thread.runs, next((one.runs for one in list(self._all) if run in one.runs), None)
        if theirs is None:
            return
        run.goes_on = True
        shared = sorted(mine + theirs, key=lambda one: -one.used)
        for one in list(self._all):
            if one.runs is mine or one.runs is theirs:
                one.runs = shared

    def sharers(self, runs: list[Trajectory]) -> int:
        """How many threads have these runs."""
        return sum(thread.runs is runs for thread in list(self._all))
