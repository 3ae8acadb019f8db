"""Tables of what `skipcache engines` found, for the terminal and for the docs, and the name of their file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from rich.table import Table

from skipcache.benchmarks.engines.rows import OneShot, PresetRow, RivalRow
from skipcache.benchmarks.names.predictors import label_of
from skipcache.benchmarks.options.engines import EnginesSettings
from skipcache.benchmarks.show.tables import markdown, new_table


def result_name(device: torch.device, settings: EnginesSettings) -> str:
    """`<device>-<preset>`, and the settings that are not the default."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), settings.preset]
    if settings.keep != EnginesSettings.keep:
        parts.append("keep-" + "-".join(map(str, settings.keep)))
    told: list[tuple[bool, str]] = [
        (settings.compile is not None, "compile"),
        (settings.mode is not None, str(settings.mode)),
        (settings.on_cpu and settings.size == "real", "real"),
        (settings.blocks is not None, f"blocks-{settings.blocks}"),
        (settings.batch is not None, f"batch-{settings.batch}"),
        (settings.dtype is not None, str(settings.dtype)),
        (settings.peers, "peers"),
    ]
    return "-".join([*parts, *(name for given, name in told if given)])


def preset_table(
    rows: Sequence[PresetRow], first: OneShot | None, settings: EnginesSettings, facts: Mapping[str, Any]
) -> Table:
    """Memory and synchronisations have columns only on cuda."""
    title = f"{settings.preset}, {settings.steps} steps, batch {facts['batch']}, {facts['dtype']}"
    table = new_table(title, gap=1)
    read = any(row.peak_memory is not None for row in rows)
    table.add_column("", no_wrap=True)
    for column in (*COLUMNS, *(CUDA_COLUMNS if read else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.label, *_cells(row), *(_cuda_cells(row) if read else ()))
    table.caption = "\n".join(_caption(first, settings, facts))
    return table


def _caption(first: OneShot | None, settings: EnginesSettings, facts: Mapping[str, Any]) -> Iterator[str]:
    size = f"{facts['parameters'] / 1e6:.1f} M parameters"
    clock = ", CPU time" if settings.cpu_time else ""
    yield f"{size} on {facts['device']['name']}; medians of {settings.rounds} rounds{clock}."
    yield "first, full, cached: such a step over a plain one. over hooks: hooks' cached step over this one."
    if first is not None:
        ideal = f" of ideal {_cell(first.ideal, '{:.2f}x')} ({_cell(first.of_ideal, '{:.3f}')})"
        yield (
            f"first image of all, interval={first.interval}, {first.steps} steps, auto ({first.engine}): "
            f"{first.speedup:.2f}x{ideal}; first step {first.first_step:.2f}."
        )
    if facts["reduced"]:
        changes = ", ".join(f"{key}={value}" for key, value in facts["reduced"].items())
        yield f"not of real size: {changes}"


def rival_table(rows: Sequence[RivalRow], settings: EnginesSettings) -> Table:
    table = new_table(f"{settings.preset}, {settings.steps} steps, one block at the start of cached steps")
    for column in ("", "first", "full", "cached", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for row in rows:
        cells = (_cell(value, "{:.3f}") for value in (row.first_step, row.full_step, row.cached_step))
        table.add_row(row.method, *cells, row.error or "")
    return table


COLUMNS = ("speedup", "over", "ideal", "of ideal", "first", "full", "cached", "over hooks")
CUDA_COLUMNS = ("peak MiB", "plain", "syncs/step", "plain")


def _cells(row: PresetRow) -> list[str]:
    return [
        f"{row.speedup:.2f}x",
        row.against,
        _cell(row.ideal, "{:.2f}x"),
        _cell(row.of_ideal, "{:.3f}"),
        f"{row.first_step:.2f}",
        f"{row.full_step:.3f}",
        f"{row.cached_step:.3f}",
        "-" if row.engine == "hooks" else f"{median(row.over_hooks):.2f}x",
    ]


def _cuda_cells(row: PresetRow) -> list[str]:
    return [
        _cell(row.peak_memory, "{:.0f}", 2**20),
        _cell(row.plain_peak_memory, "{:.0f}", 2**20),
        _cell(row.syncs_per_step, "{:.2f}"),
        _cell(row.plain_syncs_per_step, "{:.2f}"),
    ]


def _cell(value: float | None, form: str, unit: int = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def engines(results: Sequence[Mapping[str, Any]]) -> str:
    """One row for each run, predictor and interval: what steps cost with hooks and with fx, side by side."""
    heads = [
        "",
        "on a cached step",
        "speedup, hooks / fx",
        "ideal",
        "full step",
        "cached step",
        "hooks' cached step over fx's",
    ]
    lines = []
    for result in results:
        rows = [PresetRow(**row) for row in result.get("rows", ())]  # there are none in files of --peers
        for hooks, fx in zip(rows[::2], rows[1::2]):
            lines.append(
                [
                    f"{result['settings']['preset']}, {result['device']['name']}",
                    f"{label_of(fx.predictor)}, {_units(result['settings']['keep'])}; interval {fx.interval}",
                    f"{hooks.speedup:.2f}x / {fx.speedup:.2f}x",
                    f"{_cell(hooks.ideal, '{:.2f}x')} / {_cell(fx.ideal, '{:.2f}x')}",
                    f"{hooks.full_step:.2f} / {fx.full_step:.2f}",
                    f"{hooks.cached_step:.3f} / {fx.cached_step:.3f}",
                    f"{median(fx.over_hooks):.2f} ({min(fx.over_hooks):.2f} to {max(fx.over_hooks):.2f})",
                ]
            )
    return markdown(heads, lines) if lines else "\n"


def _units(keep: Sequence[int]) -> str:
    head, tail = keep
    return f"keep={head}" if head == tail else f"keep=({head}, {tail})"
