"""When a call stands: by a known scheduler's run, or by its timestep alone."""

from skipcache.trajectory.time.clock import Clock, Instant
from skipcache.trajectory.time.direction import Direction, Values, direction, timestep_values
from skipcache.trajectory.time.scheduler_run import SchedulerRun, current_runs, same_run

__all__ = [
    "Clock",
    "Direction",
    "Instant",
    "SchedulerRun",
    "Values",
    "current_runs",
    "direction",
    "same_run",
    "timestep_values",
]
