from skipcache.trajectory.runs.runs import MAX_NAMED, MAX_RUNS, Runs

__all__ = ["MAX_NAMED", "MAX_RUNS", "Runs"]
