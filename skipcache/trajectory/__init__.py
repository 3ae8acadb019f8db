from skipcache.trajectory.cache import FeatureCache, bytes_of
from skipcache.trajectory.call import WRITES, Call, CallReader, blank_call, versions, zero_call
from skipcache.trajectory.mark import Mark
from skipcache.trajectory.places import OpenStep, Repeat, Visit
from skipcache.trajectory.processes import Agree, Processes, Sharing, processes_of
from skipcache.trajectory.runs import MAX_NAMED, MAX_RUNS, Runs
from skipcache.trajectory.time import timestep_values
from skipcache.trajectory.trajectory import Trajectory
from skipcache.trajectory.word import NamedLanes, Word, said_of, saying

__all__ = [
    "MAX_NAMED",
    "MAX_RUNS",
    "WRITES",
    "Agree",
    "Call",
    "CallReader",
    "FeatureCache",
    "Mark",
    "NamedLanes",
    "OpenStep",
    "Processes",
    "Repeat",
    "Runs",
    "Sharing",
    "Trajectory",
    "Visit",
    "Word",
    "blank_call",
    "bytes_of",
    "processes_of",
    "said_of",
    "saying",
    "timestep_values",
    "versions",
    "zero_call",
]
