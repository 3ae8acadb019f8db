"""The benchmark's result as rich tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skipcache.benchmarks.fidelity.rows import Row
from skipcache.benchmarks.show.tables import new_table

COLUMNS = ("full", "cached", "blocks", "speedup", "ideal", "of ideal", "PSNR dB", "SSIM", "class", "KiB")


def result_tables(rows: Sequence[Row], title: str) -> RenderableType:
    cached = any(row.cached_steps for row in rows)
    return Group(rows_table(rows, title), *([_full_table(rows)] if cached else []))


def rows_table(rows: Sequence[Row], title: str) -> Table:
    table = new_table(title, gap=1)
    table.add_column("", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None]):
        beside = [r for r in rows if (r.group, r.placed) == (row.group, row.placed)]
        best = row.psnr is not None and row.psnr == max(r.psnr or 0 for r in beside)
        ends = following is None or following not in beside
        style = "dim" if row.interval is None and row.group else ""
        table.add_row(Text(row.label, "bold" if best else ""), *_cells(row, best), end_section=ends, style=style)
    return table


def _cells(row: Row, best: bool) -> list[str | Text]:
    return [
        str(row.full_steps),
        str(row.cached_steps),
        str(row.blocks),
        f"{row.speedup:.2f}x",
        f"{row.ideal:.2f}x",
        f"{row.of_ideal:.2f}",
        Text(_fidelity(row), "bold" if best else ""),
        "-" if row.ssim is None else f"{row.ssim:.4f}",
        f"{row.class_accuracy:.1%}",
        f"{row.cache_bytes / 1024:.0f}",
    ]


def _fidelity(row: Row) -> str:
    if row.exact:
        return "exact"
    if row.psnr is None or row.psnr_error is None:
        return "-"
    return f"{row.psnr:.1f} ± {row.psnr_error:.1f}"


def _full_table(rows: Sequence[Row]) -> Table:
    """Which steps were full: results depend on it by several dB, so it belongs to them."""
    table = new_table("steps that ran all blocks")
    table.add_column("")
    table.add_column("full steps")
    for row in rows:
        first = next(r for r in rows if (r.interval, r.placed) == (row.interval, row.placed))
        if row.interval is not None and row.interval > 1 and row is first:
            table.add_row(row.label.partition(",")[0], " ".join(map(str, row.full_at)))
    return table
