"""Skip-Cache for diffusion transformers (arXiv 2411.17616): all blocks on some steps, only the two ends on the rest."""

from skipcache._version import __version__
from skipcache.api import accelerate, accelerated, graphs, release, report, reset, restore, run, suspended
from skipcache.branches import graft, load_branches, load_skip_dit, save_branches, ungraft
from skipcache.calibration import Calibration, calibrate
from skipcache.engines.fx import Graphs
from skipcache.policies import Interval, Policy, Schedule, Spread, Step, Threshold
from skipcache.predictors import Damped, Delta, Forecast, Hold, Predictor
from skipcache.runtime import Report, Run
from skipcache.stack import Plan, Stack, find_stack, make_plan

__all__ = [
    "Calibration",
    "Damped",
    "Delta",
    "Forecast",
    "Graphs",
    "Hold",
    "Interval",
    "Plan",
    "Policy",
    "Predictor",
    "Report",
    "Run",
    "Schedule",
    "Spread",
    "Stack",
    "Step",
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
    "release",
    "report",
    "reset",
    "restore",
    "run",
    "save_branches",
    "suspended",
    "ungraft",
]
