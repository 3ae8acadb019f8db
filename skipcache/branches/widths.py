"""How many streams a block returns and how wide they are, as its code and its layers show."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Sequence

from torch import nn

from skipcache.stack import Stack


def widths_of(
    model: nn.Module,
    stack: Stack,
    pairs: Sequence[tuple[int, int]],
    streams: int | None,
    width: int | Sequence[int] | None,
) -> tuple[int, ...]:
    """One width per stream of the blocks that `pairs` join; what is not given is read from the blocks."""
    ends = [(stack.units[source][-1], stack.units[target][0]) for source, target in pairs]
    counts = {path: stream_count(model.get_submodule(path)) for source, target in ends for path in (source, target)}
    if streams is None:
        uneven = [(source, target) for source, target in ends if counts[source] != counts[target]]
        if uneven:
            source, target = uneven[0]
            raise ValueError(
                f"pairs: {source} returns {counts[source]} tensors and {target} {counts[target]}, so that no branch "
                f"can join them; leave the pair out, or pass streams=... if that was misread"
            )
        streams = counts[ends[0][0]]
    if type(streams) is not int or streams < 1:
        raise ValueError(f"streams: expected an int of at least 1, got {streams!r}")
    if width is None:
        width = usual_width(model.get_submodule(ends[0][1]))
    widths = (width,) * streams if isinstance(width, int) else tuple(width)
    if len(widths) != streams or not all(type(n) is int and n > 0 for n in widths):
        raise ValueError(f"width: expected a positive int for each of {streams} streams, got {width!r}")
    return widths


def stream_count(block: nn.Module) -> int:
    """How many tensors the block returns, by the `return` of its code; 1 where that does not show it."""
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(type(block).forward))))
    except (OSError, TypeError, SyntaxError):
        return 1
    returned = [node.value for node in ast.walk(code) if isinstance(node, ast.Return)]
    tuples = [[x for x in value.elts if not _is_none(x)] for value in returned if isinstance(value, ast.Tuple)]
    return max(map(len, tuples), default=1)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def usual_width(block: nn.Module) -> int:
    """What most of the block's linear layers take in."""
    taken = Counter(module.in_features for module in block.modules() if isinstance(module, nn.Linear))
    if not taken:
        raise ValueError(f"width: {type(block).__name__} has no linear layer to tell it by; pass width=...")
    return max(taken, key=lambda n: (taken[n], -n))
