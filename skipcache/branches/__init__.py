from skipcache.branches.checkpoint import load_branches, save_branches
from skipcache.branches.graft import graft, ungraft
from skipcache.branches.modules import SkipBranches, branches_of, grafted_branches
from skipcache.branches.plans import planned, stack_of
from skipcache.branches.skip_dit import load_skip_dit
from skipcache.branches.taps import SKIPS

__all__ = [
    "SKIPS",
    "SkipBranches",
    "branches_of",
    "graft",
    "grafted_branches",
    "load_branches",
    "load_skip_dit",
    "planned",
    "save_branches",
    "stack_of",
    "ungraft",
]
