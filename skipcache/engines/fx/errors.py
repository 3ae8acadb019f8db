"""Why there is no graph, or not for this call."""

from __future__ import annotations


class Untraceable(RuntimeError):
    """No graph of this forward would be right for every call like this one. The message says why."""


class Stale(RuntimeError):
    """This call differs from the one that the graph was made of, in something that only showed on the way."""


def of_compiling(error: Exception) -> bool:
    """torch.compile raised it, before anything ran. Its errors are told by their modules: the import is slow."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def reason_of(error: Exception) -> str:
    """Why there is no graph, in one line."""
    text = str(error).strip().splitlines() or [""]
    if isinstance(error, Untraceable):
        return text[0]
    what = "torch.compile" if of_compiling(error) else "tracing"
    return f"{what} failed: {type(error).__name__}: {text[0][:200]}"
