"""Skip-Cache for diffusion transformers (arXiv 2411.17616): all blocks on some steps, only the two ends on the rest."""

from skipcache._version import __version__
from skipcache.api import accelerate, accelerated, graphs, report, reset, restore
from skipcache.branches.checkpoint import load_branches, save_branches
from skipcache.branches.graft import graft, ungraft
from skipcache.branches.skip_dit import load_skip_dit
from skipcache.calibration.calibrate import calibrate
from skipcache.calibration.calibration import Calibration
from skipcache.engines.fx.programs import Graphs
from skipcache.policies.base import Interval, Schedule, Threshold
from skipcache.policies.spread import Spread
from skipcache.predictors.base import Damped, Delta, Forecast, Hold
from skipcache.runtime.report import Report
from skipcache.stack.plan import Plan, make_plan
from skipcache.stack.stack import Stack, find_stack

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
