"""The docs' tables of `skipcache peers`: a headline, a summary, and every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from skipcache.benchmarks.peers.rows import Row
from skipcache.benchmarks.peers.table import COLUMNS, by_target, cells, failed
from skipcache.benchmarks.show.tables import markdown

HEADLINE = ("dpm++", 2.2)  # sampler and target of the README's table
HOLD = 1.7  # the speedup at which the paper's rule stands beside a calibration for 3x
# Columns of the summary, and the methods of which each shows the best.
SUMMARY = {
    "fewer steps": ("fewer-steps",),
    "`speedup=`": ("speedup",),
    "`Threshold`": ("threshold",),
    "uniform": ("uniform-damped", "uniform-hold"),
}

Result = dict[str, Any]


def headline(results: Sequence[Result]) -> str:
    """One row for each method; for each model its measured speedup and its fidelity."""
    sampler, target = HEADLINE
    shown = [r for r in results if r["settings"]["scheduler"] == sampler and target in r["settings"]["targets"]]
    if not shown:
        return "\n"
    heads = ["", *(head for r in shown for head in ("speedup", f"`{r['settings']['model']}`, PSNR dB")), "lines"]
    found = [{row.method: row for row in rows_of(r) if row.target == target or row.error} for r in shown]
    methods = sorted({method for rows in found for method in rows}, key=lambda m: (-_best(found[0].get(m)), m))
    lines = [[_label(found, m), *(c for rows in found for c in _pair(rows.get(m))), _lines(found, m)] for m in methods]
    return markdown(heads, lines)


def _best(row: Row | None) -> float:
    """Sort key: methods with more compute than skipcache's come later, and methods that do not run last."""
    if row is None or row.psnr is None:
        return -1000.0
    return row.psnr - (500.0 if row.is_favoured else 0.0)


def _label(found: Sequence[dict[str, Row]], method: str) -> str:
    row = next(rows[method] for rows in found if method in rows)
    label = f"{row.label} ({row.library})" if row.library not in ("", "skipcache") else row.label
    return f"**{label}**" if method == "skipcache" else label


def _pair(row: Row | None) -> tuple[str, str]:
    if row is None or row.psnr is None or row.psnr_error is None:
        return "-", "does not run" if row is not None and row.error else "-"
    mark = f" (at {row.flop_speedup:.2f}x FLOPs)" if row.is_favoured else ""
    return f"{row.speedup:.2f}x", f"{row.psnr:.1f} ± {row.psnr_error:.1f}{mark}"


def _lines(found: Sequence[dict[str, Row]], method: str) -> str:
    return next((str(rows[method].lines) for rows in found if method in rows and rows[method].lines), "-")


def summary(results: Sequence[Result]) -> str:
    """One row for each model and sampler: PSNR at each target, of those within the compute of the calibrated cache."""
    lines = []
    for result in results:
        settings, rows = result["settings"], rows_of(result)
        by_method = partial(_fidelities, rows, settings["targets"])
        calibrated, others = by_method(_is("skipcache")), by_method(lambda row: row.library not in ("", "skipcache"))
        margins = [None if x is None or y is None else x - y for x, y in zip(calibrated, others)]
        shown = [calibrated, others, *(by_method(_is(*methods)) for methods in SUMMARY.values())]
        hold = _highest(row.psnr for row in rows if row.target == HOLD and row.method == "uniform-hold")
        first, rest = map(_numbers, shown[:2]), map(_numbers, shown[2:])
        lines.append([_name(result), *first, _numbers(margins, "+"), *rest, _numbers([hold])])
    heads = ["", "calibrated", "the best other cache", "margin", *SUMMARY, f"Hold at {HOLD:g}x"]
    return markdown(heads, lines) if lines else "\n"


def choices(results: Sequence[Result]) -> str:
    """One row for each model and sampler: PSNR at the headline's target, of each way to get there."""
    heads = ["", "calibrated", "`speedup=`", "best uniform interval", "best other cache", "fewer steps"]
    lines = [[_name(result), *_choices(rows_of(result), HEADLINE[1])] for result in results]
    return markdown(heads, lines) if lines else "\n"


def _choices(rows: Sequence[Row], target: float) -> Iterator[str]:
    rows = [row for row in rows if row.target == target and row.psnr is not None]
    within = [row for row in rows if not row.is_favoured]
    yield _best_of(row for row in within if row.method == "skipcache")
    yield _best_of(row for row in rows if row.method == "speedup")
    yield _best_of(row for row in within if row.method in SUMMARY["uniform"])
    yield _best_of((row for row in within if row.library not in ("", "skipcache")), named=True)
    yield _best_of(row for row in within if row.method == "fewer-steps")


def _best_of(rows: Iterable[Row], named: bool = False) -> str:
    """The highest PSNR, with the compute of a row that has more than the calibrated cache."""
    best = max(rows, key=lambda row: row.psnr or 0, default=None)
    if best is None:
        return "-"
    more = f"at {best.flop_speedup:.2f}x" if best.is_favoured else best.label if named else ""
    return f"{best.psnr:.1f}" + (f" ({more})" if more else "")


def _name(result: Result) -> str:
    settings = result["settings"]
    return f"{settings['model']}, {settings['scheduler'].upper()} {settings['steps']}"


def _is(*methods: str) -> Callable[[Row], bool]:
    return lambda row: row.method in methods


def _fidelities(rows: Sequence[Row], targets: Sequence[float], counts: Callable[[Row], bool]) -> list[float | None]:
    """For each target the best of the rows that count. Fewer steps count too, although they have more compute."""
    within = [row for row in rows if counts(row) and not row.is_favoured]
    return [_highest(row.psnr for row in within if row.target == target) for target in targets]


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _numbers(values: Sequence[float | None], sign: str = "") -> str:
    return " / ".join("-" if value is None else f"{value:{sign}.1f}" for value in values)


def full(results: Sequence[Result]) -> str:
    return "\n".join(_section(result) for result in results)


def _section(result: Result) -> str:
    rows, settings = rows_of(result), result["settings"]
    heading = f"### {settings['model']}, {settings['steps']} {settings['scheduler'].upper()} steps"
    device, seeds = result["device"], len(settings["seeds"])
    facts = (
        f"{result['images']} images of {seeds} seeds, guidance {settings['guidance']:g}; {result['blocks']} blocks, "
        f"{result['parameters'] / 1e6:.1f}M parameters; {device['name']}, {device['threads']} threads; "
        f"`{result['command']}`."
    )
    picture = f"![fidelity over measured speedup](images/{name_of(result)}.png)"
    lines = [["", rows[0].label, *cells(rows[0])]]
    for target, some in by_target(rows):
        lines += [[f"{target:g}x", row.label, *cells(row)] for row in some]
    table = markdown(["target", "", *COLUMNS], lines)
    told = {f"{row.label}: {row.note}." for row in rows if row.note}
    notes = [f"- {note}" for note in sorted(told)]
    notes += [f"- {row.label} does not run: `{row.error}`." for row in failed(rows)]
    return "\n\n".join([heading, facts, picture, table + "\n".join(notes)]) + "\n"


def rows_of(result: Result) -> list[Row]:
    return [Row(**row) for row in result["rows"]]


def name_of(result: Result) -> str:
    return f"peers-{result['settings']['model']}-{result['settings']['scheduler']}"
