"""The rows as rich tables, one for each target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.peers.rows import Row
from skipcache.benchmarks.show.tables import new_table, wide

WIDTH = 140
# Heading -> cell; the same in the terminal and in the docs.
COLUMNS = {
    "speedup": lambda row: _x(row.speedup),
    "FLOPs": lambda row: _x(row.flop_speedup) + (" >" if row.over_budget else ""),
    "blocks": lambda row: _number(row.blocks, "{:.0f}"),
    "PSNR dB": lambda row: _psnr(row.psnr, row.psnr_error),
    "to 400 steps": lambda row: _psnr(row.psnr_fine, row.psnr_fine_error),
    "SSIM": lambda row: _number(row.ssim, "{:.4f}"),
    "Frechet": lambda row: _number(row.frechet, "{:.2f}"),
    "class": lambda row: _number(row.class_accuracy, "{:.1%}"),
    "KiB": lambda row: _number(row.extra_bytes, "{:.0f}", 1024),
    "lines": lambda row: _number(row.lines, "{:d}"),
}


def cells(row: Row, columns: Sequence[str] = tuple(COLUMNS)) -> list[str]:
    return [COLUMNS[heading](row) for heading in columns]


def _x(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _number(value: float | None, form: str, unit: int = 1) -> str:
    if value is None:
        return "-"
    return form.format(value if unit == 1 else value / unit)


def _psnr(mean: float | None, error: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def by_target(rows: Sequence[Row]) -> Iterator[tuple[float, list[Row]]]:
    """Those that ran, best first; stochastic rivals, which cannot be compared image by image, last."""
    for target in sorted({row.target for row in rows if row.target is not None}):
        ran = [row for row in rows if row.target == target and row.error is None]
        yield target, sorted(ran, key=lambda row: (row.is_favoured, -(row.psnr or 0)))


def failed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.error is not None]


def print_peers(console: Console, rows: Sequence[Row], settings: PeersSettings, facts: dict[str, Any]) -> None:
    shown = wide(console, WIDTH)
    title = f"{settings.model}, {settings.steps} {settings.scheduler.upper()} steps, guidance {settings.guidance:g}"
    plain = rows[0]
    shown.print(Group(*(table_of(f"{title}: {target:g}x", [plain, *some]) for target, some in by_target(rows))))
    for row in failed(rows):
        shown.print(f"{row.label} does not run: {row.error}", highlight=False)
    shown.print(
        f"{facts['images']} images; speedup is the median of {len(settings.seeds)} runs, each beside a plain one.\n"
        "FLOPs and blocks are what really ran; > marks more FLOPs than skipcache's, calibrated. PSNR and SSIM are\n"
        "against the plain run. KiB: tensors alive between steps, beyond a plain run's. lines: of user code.\n"
        f"Took {facts['seconds']:.0f} s. Wrote peers.json and frontier.png to {settings.out}/",
        highlight=False,
    )
    if not facts["plain_untouched"]:
        shown.print("[red]A method has changed the plain model's samples: no row can be trusted.[/red]")


def table_of(title: str, rows: Sequence[Row], columns: Sequence[str] = tuple(COLUMNS)) -> Table:
    table = new_table(title, gap=1)
    table.add_column("", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if row.method == "skipcache" else "dim" if not row.library else ""
        table.add_row(Text(row.label), *cells(row, columns), style=style)
    return table
