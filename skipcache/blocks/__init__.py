from skipcache.blocks.attributes import HOOKS, MARK, REGISTRIES, REPLICATE, TORCH, WRAPPERS, contents_of, modules_of
from skipcache.blocks.eagerly import eagerly
from skipcache.blocks.footprint import Footprint
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
from skipcache.blocks.shards import (
    as_entering,
    class_name,
    divided_like,
    groups_of,
    is_divided,
    named_group,
    reshard,
    sequence_group,
    whole_argument,
    whole_of,
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
    "Footprint",
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
    "as_entering",
    "check_plain",
    "class_name",
    "contents_of",
    "divided_like",
    "eagerly",
    "equal_values",
    "groups_of",
    "handed_in",
    "hidden_behind",
    "inner_forward",
    "is_bound_to",
    "is_divided",
    "memory_of",
    "modules_of",
    "named_group",
    "on_host",
    "outline_of",
    "override_of",
    "own_forward",
    "quietly",
    "rebuild",
    "reshard",
    "sequence_group",
    "take_apart",
    "tensors_of",
    "version",
    "weightless",
    "whole_argument",
    "whole_of",
]
