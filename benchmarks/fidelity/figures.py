"""The two pictures: samples side by side with their errors, and fidelity over speedup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from skipcache.benchmarks.fidelity.pairs import Measured
from skipcache.benchmarks.fidelity.rows import Row
from skipcache.benchmarks.fidelity.variants import telling
from skipcache.benchmarks.names.predictors import PREDICTORS
from skipcache.benchmarks.show.pictures import is_video, show, stills, strip, write_gif

GAIN = 10  # the errors are drawn this much stronger than they are
PLACED, FEWER = "placed", "fewer"  # lines beside those of the predictors
# Line -> colour, marker, label: told apart by the colour-blind and in grey.
STYLES: dict[str, tuple[str, str, str]] = (
    {PLACED: ("#000000", "o", "accelerate(pipe, interval=n)")}
    | {
        name: (named.colour, named.marker, f"Interval(n), {named.label}")
        for name, named in sorted(PREDICTORS.items(), key=lambda item: item[1].order)
    }
    | {FEWER: ("#777777", "D", "plain model, fewer steps")}
)
BESIDE = ("#CC79A7", "v")


def draw_samples(path: Path, measured: Sequence[Measured], rows: Sequence[Row]) -> list[Path]:
    """One row of samples per method, all of the same seeds; beside it, the difference from the uncached row.

    Of videos it shows stills, and beside `path` a GIF shows them all.
    """
    _samples(measured, rows, stills).savefig(path)
    if not is_video(measured[0].plain):
        return [path]
    gif = path.with_suffix(".gif")
    frames = range(measured[0].plain.shape[2])
    write_gif(gif, [_samples(measured, rows, partial(_frame, index), dpi=80) for index in frames])
    return [path, gif]


def _frame(index: int, videos: Tensor) -> Tensor:
    return stills(videos[:, :, index])


def _samples(
    measured: Sequence[Measured], rows: Sequence[Row], shown: Callable[[Tensor], Tensor], dpi: int = 160
) -> Figure:
    """`shown` picks the images of a row, at most ten."""
    picked = _worth_showing(rows)
    reference = strip(shown(measured[0].plain))
    figure = Figure(figsize=(13, 0.62 * (len(picked) + 1) + 0.55), dpi=dpi, layout="constrained")
    axes = figure.subplots(len(picked) + 1, 2, squeeze=False)
    axes[0, 0].set_title("samples of the same seeds", fontsize=11)
    axes[0, 1].set_title(f"difference from the first row, x {GAIN}", fontsize=11)
    _show(axes[0], reference, reference, "uncached")
    for pair, index in zip(axes[1:], picked):
        row = rows[index]
        _show(pair, strip(shown(measured[index].samples)), reference, _caption(row))
        pair[1].set_visible(row.psnr is not None)
    return figure


def _worth_showing(rows: Sequence[Row]) -> list[int]:
    """What people type and its rivals, and the paper's way: its rule with its predictor."""
    shown = telling(row.group for row in rows)
    return [i for i, row in enumerate(rows) if row.group in shown and (row.placed or row.predictor == "hold")]


def _show(pair: Sequence[Axes], row: Tensor, reference: Tensor, label: str) -> None:
    difference = 0.5 + GAIN / 2 * (row - reference)
    show(pair[0], row)
    show(pair[1], difference.clamp(0, 1), "RdBu")
    pair[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9.5)


def _caption(row: Row) -> str:
    """Without PSNR for a plain rival of a stochastic sampler: it has drawn other noise."""
    return f"{row.label}\n{row.speedup:.2f}x" + (f", {row.psnr:.1f} dB" if row.psnr is not None else "")


def draw_fidelity(path: Path, rows: Sequence[Row], title: str, beside: str = "", others: Sequence[Row] = ()) -> None:
    """PSNR over measured speedup, one line per predictor and one for the plain model with fewer steps.

    `others` are the rows of the model `beside`: a line of their own.
    """
    figure = Figure(figsize=(7.6, 4.8), dpi=160, layout="constrained")
    axis = figure.subplots()
    lines = {name: [r for r in rows if _line_of(r) == name and r.psnr is not None and r.group > 1] for name in STYLES}
    for name, line in lines.items():
        if line:
            _draw_line(axis, sorted(line, key=lambda r: r.speedup), name in (PLACED, FEWER), STYLES[name])
    if others:
        style = (*BESIDE, f"{beside}, Hold (its own uncached samples)")
        _draw_line(axis, sorted(others, key=lambda r: r.speedup), False, style)
    axis.set_xlabel("measured speedup over the plain model (median of paired runs)")
    axis.set_ylabel("PSNR against the uncached samples, dB")
    axis.set_title(title, fontsize=9.5)
    axis.grid(alpha=0.3)
    axis.margins(0.08)
    if axis.has_data():
        axis.legend(frameon=False, title="number: interval, or sampler steps", alignment="left")
    figure.savefig(path)


def _line_of(row: Row) -> str:
    return FEWER if row.interval is None else PLACED if row.placed else row.predictor or ""


def _draw_line(axis: Axes, points: Sequence[Row], numbered: bool, style: tuple[str, str, str]) -> None:
    """Numbers stand inside the markers, but only of two lines: the others have the same intervals."""
    colour, marker, label = style
    axis.errorbar(
        [r.speedup for r in points],
        [r.psnr or 0.0 for r in points],
        yerr=[r.psnr_error or 0.0 for r in points],
        color=colour,
        capsize=3,
        linestyle=(line := "-" if points[0].interval else "--"),
    )
    axis.plot([], [], color=colour, marker=marker, linestyle=line, label=label)
    axis.scatter(
        [r.speedup for r in points],
        [r.psnr or 0.0 for r in points],
        s=200 if numbered else 45,
        color=colour,
        marker=marker,
        zorder=4,
    )
    for row in points if numbered else ():
        text = str(row.interval or row.steps)
        where = (row.speedup, row.psnr or 0.0)
        axis.annotate(text, where, ha="center", va="center", color="white", fontsize=8, weight="bold", zorder=5)
