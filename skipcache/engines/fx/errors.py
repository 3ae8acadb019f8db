"""Why there is no graph, or not for this call."""

from __future__ import annotations


class Untraceable(RuntimeError):
    """No graph of this forward would be right for every call like this one. The message says why."""


class Stale(RuntimeError):
    """This call differs from the one that the graph was made of, in something that only showed on the way."""
