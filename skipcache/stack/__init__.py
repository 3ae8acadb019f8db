from skipcache.stack.arguments import argument_names
from skipcache.stack.denoisers import find_denoisers, inner_denoiser, modules_in, other_cache, unwrap
from skipcache.stack.discovery import TIMESTEP_NAMES, find_stack, one_per_block
from skipcache.stack.plan import Keep, Plan, deep_blocks, make_plan
from skipcache.stack.stack import Stack, check_stack

__all__ = [
    "TIMESTEP_NAMES",
    "Keep",
    "Plan",
    "Stack",
    "argument_names",
    "check_stack",
    "deep_blocks",
    "find_denoisers",
    "find_stack",
    "inner_denoiser",
    "make_plan",
    "modules_in",
    "one_per_block",
    "other_cache",
    "unwrap",
]
