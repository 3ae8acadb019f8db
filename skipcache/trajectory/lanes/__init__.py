"""Who is called: lanes, told apart by the model's state and the conditioning."""

from skipcache.trajectory.lanes.evidence import Evidence, Habits
from skipcache.trajectory.lanes.lane import Lane
from skipcache.trajectory.lanes.lanes import MAX_LANES, Found, Lanes

__all__ = ["MAX_LANES", "Evidence", "Found", "Habits", "Lane", "Lanes"]
