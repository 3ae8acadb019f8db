from skipcache.policies.base import NEAR, Policy, Step, check_count, mismatch_of, note_of, reads_drift, reads_time
from skipcache.policies.interval import Interval
from skipcache.policies.placed import Placed
from skipcache.policies.schedule import Schedule
from skipcache.policies.spread import Spread
from skipcache.policies.threshold import Threshold

__all__ = [
    "NEAR",
    "Interval",
    "Placed",
    "Policy",
    "Schedule",
    "Spread",
    "Step",
    "Threshold",
    "check_count",
    "mismatch_of",
    "note_of",
    "reads_drift",
    "reads_time",
]
