"""The report: what caching did, as values and as a table."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


@dataclass(frozen=True)
class Report:
    """What was done for one denoiser since `accelerate` or `reset`. Printing it shows a table; `sum` merges several.

    Attributes:
        full_steps, cached_steps: steps of all trajectories. A step is full if any of its lanes ran all blocks.
        blocks_run, blocks_saved: blocks that computed and blocks that did not, over all calls. Trials that prove a
            step are not counted.
        ideal_speedup: FLOPs of as many full calls over the FLOPs of the calls made; None before the first call. They
            are counted once per signature, on a copy of the model on the meta device, for those that were called most
            (at most 4); the model itself is not run. Where no copy can run (sharded or quantised weights, a
            forward that reads values) it is that of blocks, and `reasons` says why.
        cache_bytes: what the cached features hold now, on all threads.
        engine: what serves this denoiser: "fx", "hooks", or both, where they serve different signatures.
        full_at: the steps of the last trajectory that were full, counted from 0.
        reasons: why steps were full that the policy would have cached, why another engine serves,
            or why blocks were counted in place of FLOPs.
        largest_gap: in the last trajectory, the most steps from one full step to the next, or to the end.
        evictions: how many runs lost their features to `cache_limit`; the next step of each was full.
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
    evictions: int = 0
    largest_gap: int = 0

    def __add__(self, other: Report) -> Report:
        """Of both, as if one process had done all of it: for reports of several processes. `full_at` is of this one.

        Their ideal speedups are weighed by the blocks that a plain run would have run.
        """
        made = [r.blocks_run + r.blocks_saved for r in (self, other)]
        known = [(n, r.ideal_speedup) for n, r in zip(made, (self, other)) if r.ideal_speedup is not None]
        spent = sum(n / speedup for n, speedup in known)
        return Report(
            full_steps=self.full_steps + other.full_steps,
            cached_steps=self.cached_steps + other.cached_steps,
            blocks_run=self.blocks_run + other.blocks_run,
            blocks_saved=self.blocks_saved + other.blocks_saved,
            ideal_speedup=sum(n for n, _ in known) / spent if spent else self.ideal_speedup or other.ideal_speedup,
            cache_bytes=self.cache_bytes + other.cache_bytes,
            engine=" and ".join(dict.fromkeys((*self.engine.split(" and "), *other.engine.split(" and ")))),
            full_at=self.full_at,
            reasons=tuple(dict.fromkeys((*self.reasons, *other.reasons))),
            evictions=self.evictions + other.evictions,
            largest_gap=max(self.largest_gap, other.largest_gap),
        )

    def __radd__(self, other: int) -> Report:
        """`sum(reports)` begins with 0."""
        return self if other == 0 else NotImplemented

    def to_json(self) -> str:
        """All fields, as a JSON object."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, force_jupyter=False, force_terminal=False)
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
            *([("evictions", self.evictions)] if self.evictions else []),
            ("full at", " ".join(map(str, self.full_at)) or "-"),
            ("largest gap", self.largest_gap),
        ):
            table.add_row(name, str(value))
        for reason in self.reasons:
            table.add_row("because", reason)
        yield table
