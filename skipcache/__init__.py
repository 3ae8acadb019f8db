"""Skip-Cache for diffusion transformers (arXiv 2411.17616): all blocks on some steps, only the two ends on the rest."""

from skipcache._version import __version__
from skipcache.api import accelerate, accelerated, graphs, report, reset, restore
from skipcache.branches import graft, ungraft
from skipcache.calibration import Calibration
from skipcache.checkpoint import load_branches, save_branches
from skipcache.plan import Plan, make_plan
from skipcache.policy import Interval, Schedule, Threshold
from skipcache.predictor import Damped, Delta, Forecast, Hold
from skipcache.program import Graphs
from skipcache.report import Report
from skipcache.search import calibrate
from skipcache.skip_dit import load_skip_dit
from skipcache.spread import Spread
from skipcache.stack import Stack, find_stack

__all__ = [
    "Calibration",
    "Damped",
    "Delta",
    "Forecast",
    "Graphs",
    "Hold",
    "Interval",
    "Plan",
    "Report",
    "Schedule",
    "Spread",
    "Stack",
    "Threshold",
    "__version__",
    "accelerate",
    "accelerated",
    "calibrate",
    "find_stack",
    "graft",
    "graphs",
    "load_branches",
    "load_skip_dit",
    "make_plan",
    "report",
    "reset",
    "restore",
    "save_branches",
    "ungraft",
]
