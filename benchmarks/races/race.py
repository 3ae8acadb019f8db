"""`skipcache.benchmarks.race`: peers, fewer steps and skipcache on one's own pipeline, as rows and as a table."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from skipcache.benchmarks.names.peers import PEERS
from skipcache.benchmarks.peers.rows import Row
from skipcache.benchmarks.peers.run import compete, find_methods, shown_progress
from skipcache.benchmarks.peers.table import WIDTH, failed, table_of
from skipcache.benchmarks.races.task import OwnTask, RaceSettings, Run
from skipcache.benchmarks.sampling.metrics import compare
from skipcache.benchmarks.show.json_file import describe_device, write_json

NEED_MORE = ("pab", "fastercache")  # they ask for timesteps and halves of the batch as the references give them
USUAL = ("skipcache", "speedup", "uniform-hold", "fewer-steps", "fbcache", "taylorseer-lite", "dbcache-taylorseer")
COLUMNS = ("speedup", "FLOPs", "blocks", "PSNR dB", "SSIM", "KiB")


@dataclass(frozen=True)
class Race:
    """What `race` found; `print` it for the table.

    Attributes:
        rows: the plain pipeline first, then one row per method; `error` says why a method did not run.
        plain_untouched: whether the plain pipeline sampled equally before and after all methods.
    """

    rows: list[Row]
    settings: RaceSettings
    model: str
    device: dict[str, Any]
    plain_untouched: bool

    def save(self, path: str | Path) -> None:
        """Writes everything as JSON."""
        rest = {"model": self.model, "device": self.device, "plain_untouched": self.plain_untouched}
        write_json(Path(path), self.settings, {**rest, "rows": [asdict(row) for row in self.rows]})

    def __str__(self) -> str:
        console = Console(width=WIDTH, file=io.StringIO())
        ran = sorted((row for row in self.rows[1:] if not row.error), key=lambda row: -(row.psnr or float("inf")))
        title = f"{self.model}, {self.settings.steps} steps: {self.settings.targets[0]:g}x"
        console.print(table_of(title, [self.rows[0], *ran], COLUMNS))
        for row in failed(self.rows):
            console.print(f"{row.label} does not run: {row.error}", highlight=False, markup=False, soft_wrap=True)
        if not self.plain_untouched:
            console.print("A method has changed the plain pipeline's samples: no row can be trusted.")
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]


def race_own(pipe: Any, run: Run, speedup: float, steps: int, seeds: Sequence[int], methods: Sequence[str]) -> Race:
    """See `skipcache.benchmarks.race`."""
    chosen = tuple(methods) or tuple(name for name in USUAL if PEERS[name].library != "cache-dit" or _has_cache_dit())
    for name in chosen:
        if name not in PEERS or name in NEED_MORE:
            offered = ", ".join(other for other in PEERS if other not in NEED_MORE)
            raise ValueError(f"methods: expected names among {offered}, got {name!r}")
    settings = RaceSettings(steps, tuple(seeds), (speedup,), chosen)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # other libraries warn of themselves, once for each copy
        task = OwnTask(pipe, run, settings)
        with shown_progress(Console(stderr=True)) as show:
            done = compete(task, find_methods(chosen), show, more={})
    plain = torch.cat(done.plain)
    first = Row("", f"plain, {steps} steps", "", None, flops=done.flops, flop_speedup=1.0, speedup=1.0)
    first.blocks = task.plain_work.blocks
    for contender in done.contenders.values():
        _judge(contender.row, torch.cat(contender.samples), plain)
    name, device = type(task.model).__name__, describe_device(str(next(task.model.parameters()).device))
    return Race([first, *done.rows()], settings, name, device, done.plain_untouched)


def _judge(row: Row, samples: Tensor, plain: Tensor) -> None:
    found = compare(samples, plain).row()
    row.psnr, row.psnr_error, row.ssim = found["psnr"], found["psnr_error"], found["ssim"]


def _has_cache_dit() -> bool:
    return find_spec("cache_dit") is not None
