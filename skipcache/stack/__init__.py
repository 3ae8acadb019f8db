from skipcache.stack.stack import TIMESTEP_NAMES, Stack, check_stack, find_stack, one_per_block

__all__ = ["TIMESTEP_NAMES", "Stack", "check_stack", "find_stack", "one_per_block"]
