from skipcache.blocks.attributes import HOOKS, MARK, REGISTRIES, REPLICATE, TORCH, WRAPPERS
from skipcache.blocks.eagerly import eagerly
from skipcache.blocks.generators import Generators
from skipcache.blocks.outline import Outline, equal_values, memory_of, on_host, outline_of, version
from skipcache.blocks.outside import Outside
from skipcache.blocks.override import (
    CallOverride,
    Override,
    check_plain,
    hidden_behind,
    inner_forward,
    is_bound_to,
    override_of,
    own_forward,
)
from skipcache.blocks.snapshot import Snapshot, quietly
from skipcache.blocks.state import ModelState
from skipcache.blocks.streams import Streams, alike, arguments_of, handed_in, rebuild, take_apart, tensors_of
from skipcache.blocks.weightless import META, Unlike, Weightless, weightless

__all__ = [
    "HOOKS",
    "MARK",
    "META",
    "REGISTRIES",
    "REPLICATE",
    "TORCH",
    "WRAPPERS",
    "CallOverride",
    "Generators",
    "ModelState",
    "Outline",
    "Outside",
    "Override",
    "Snapshot",
    "Streams",
    "Unlike",
    "Weightless",
    "alike",
    "arguments_of",
    "check_plain",
    "eagerly",
    "equal_values",
    "handed_in",
    "hidden_behind",
    "inner_forward",
    "is_bound_to",
    "memory_of",
    "on_host",
    "outline_of",
    "override_of",
    "own_forward",
    "quietly",
    "rebuild",
    "take_apart",
    "tensors_of",
    "version",
    "weightless",
]
