"""The runs of threads."""

import threading

from skipcache import Delta, Interval
from skipcache.trajectory.runs.threads import Threads
from skipcache.trajectory.trajectory import Trajectory


def a_run():
    return Trajectory(Interval(3), Delta())


def on_another_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_each_thread_has_runs_of_its_own_until_they_are_shared():
    threads = Threads(tuple)
    here, there = threads.here, on_another_thread(lambda: threads.here)
    assert threads.here is here and there is not here
    mine, theirs = a_run(), a_run()
    here.runs.append(mine)
    there.runs.append(theirs)
    assert threads.elsewhere(here) == [theirs] and set(threads.runs) == {mine, theirs}
    theirs.used = 5
    threads.share(here, theirs)
    assert here.runs is there.runs and here.runs == [theirs, mine] and threads.sharers(here.runs) == 2
    assert threads.elsewhere(here) == [] and theirs.goes_on


def test_a_run_that_no_thread_has_is_shared_with_nobody():
    threads = Threads(tuple)
    threads.share(threads.here, a_run())
    assert threads.here.runs == [] and threads.sharers(threads.here.runs) == 1
