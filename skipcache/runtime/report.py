"""What caching did: counters, and the table that shows them."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


@dataclass(frozen=True)
class Report:
    """One denoiser since `accelerate` or `reset`.

    Attributes:
        full_steps, cached_steps: steps of all trajectories; a step is full if any of its lanes ran all blocks.
        blocks_run, blocks_saved: evaluations of blocks, counted per call.
        ideal_speedup: FLOPs of as many full calls over the FLOPs of the calls made; None before the first
            call, and where FLOPs cannot be counted.
        cache_bytes: what the cached features hold now, on all threads.
        engine: what serves this denoiser: "fx", "hooks", or both, where they serve different signatures.
        full_at: the steps of the last trajectory that were full, counted from 0.
        reasons: why steps were full that the policy would have cached, or why another engine serves.
    """

    full_steps: int
    cached_steps: int
    blocks_run: int
    blocks_saved: int
    ideal_speedup: float | None
    cache_bytes: int
    engine: str
    full_at: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(self)
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="skipcache", title_justify="left", show_header=False)
        speedup = "-" if self.ideal_speedup is None else f"{self.ideal_speedup:.2f}x"
        for name, value in (
            ("full steps", self.full_steps),
            ("cached steps", self.cached_steps),
            ("blocks run", self.blocks_run),
            ("blocks saved", self.blocks_saved),
            ("ideal speedup", speedup),
            ("cache", f"{self.cache_bytes / 2**20:.2f} MiB"),
            ("engine", self.engine),
            ("full at", " ".join(map(str, self.full_at)) or "-"),
        ):
            table.add_row(name, str(value))
        for reason in self.reasons:
            table.add_row("because", reason)
        yield table


@dataclass
class Counters:
    """What is counted while sampling; threads share it."""

    full_steps: int = 0
    cached_steps: int = 0
    blocks_run: int = 0
    blocks_saved: int = 0
    calls: Counter[tuple[Hashable, bool]] = field(default_factory=Counter)
    full_at: tuple[int, ...] = ()
    reasons: dict[str, None] = field(default_factory=dict)
    engines: dict[str, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def step(self, index: int, full: bool) -> None:
        """A step has begun."""
        with self._lock:
            self.full_steps += full
            self.cached_steps += not full
            if full:
                self.full_at = (*(self.full_at if index else ()), index)

    def widen(self, index: int) -> None:
        """A step that began as cached turned out full in another lane."""
        with self._lock:
            self.full_steps += 1
            self.cached_steps -= 1
            self.full_at = (*self.full_at, index)

    def call(self, key: Hashable, full: bool, run: int, saved: int) -> None:
        with self._lock:
            self.blocks_run += run
            self.blocks_saved += saved
            self.calls[key, full] += 1

    def because(self, reason: str) -> None:
        self.reasons[reason] = None
