"""Fidelity over measured speedup: a line for each method, through its targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skipcache.benchmarks.names.peers import PEERS
from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.options.peers import PeersSettings
from skipcache.benchmarks.peers.rows import Row

# As legends call the libraries, in the order of the methods.
LIBRARIES = {library: library or "no cache" for library in dict.fromkeys(peer.library for peer in PEERS.values())}


def draw_frontier(path: Path, rows: Sequence[Row], settings: PeersSettings) -> None:
    """Beside it, against a run of 400 steps, where the sampler draws no noise of its own."""
    fine = settings.scheduler not in STOCHASTIC
    figure = Figure(figsize=(12.6 if fine else 8.4, 5.0), dpi=160, layout="constrained")
    axes = figure.subplots(1, 2 if fine else 1, squeeze=False)[0]
    _draw(axes[0], rows, "psnr", f"against the plain run of {settings.steps} steps")
    if fine:
        _draw(axes[1], rows, "psnr_fine", "against the plain run of 400 steps, same first noise")
        plain = rows[0].psnr_fine
        if plain is not None:
            axes[1].axhline(plain, color="#333333", linewidth=0.8, linestyle=(0, (1, 3)))
            axes[1].annotate(
                f"plain, {settings.steps} steps", (0.99, plain), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=8, color="#333333",
            )  # fmt: skip
    _draw_legend(figure, axes[0], rows)
    images = settings.batch * len(settings.seeds)
    figure.suptitle(
        f"{settings.model}, {settings.scheduler.upper()}, {images} images: equal compute, tuned apart from the test",
        fontsize=10.5,
    )
    figure.savefig(path)


def _draw_legend(figure: Figure, axis: Axes, rows: Sequence[Row]) -> None:
    """The methods by library, each under its name."""
    drawn = dict(zip(*reversed(axis.get_legend_handles_labels())))
    handles: list[Any] = []
    labels: list[str] = []
    for library, title in LIBRARIES.items():
        found = [label for label in drawn if any(r.label == label and r.library == library for r in rows)]
        if found:
            handles += [Line2D([], [], linestyle="none"), *(drawn[label] for label in found)]
            labels += [title, *(label.removeprefix("skipcache, ") for label in found)]
    legend = figure.legend(
        handles, labels, loc="outside right center", frameon=False, fontsize=8.5, handlelength=3, labelspacing=0.6
    )
    for text in legend.get_texts():
        if text.get_text() in LIBRARIES.values():
            text.set_fontweight("bold")


def _draw(axis: Axes, rows: Sequence[Row], what: str, title: str) -> None:
    for method, peer in PEERS.items():
        found = {row.speedup: row for row in rows if row.method == method and getattr(row, what) is not None}
        points = [found[x] for x in sorted(x for x in found if x is not None)]
        if not points:
            continue
        ours = method == "skipcache"
        axis.errorbar(
            [row.speedup or 0.0 for row in points],
            [getattr(row, what) for row in points],
            yerr=[_spread(row, what) for row in points],
            color=peer.colour, marker=peer.marker, linestyle=peer.line, capsize=2.5, label=points[0].label,
            linewidth=2.6 if ours else 1.3, markersize=8 if ours else 5.5, zorder=5 if ours else 3,
            markerfacecolor=peer.colour if peer.line != ":" else "white",
        )  # fmt: skip
    axis.set_title(title, fontsize=9.5)
    axis.set_xlabel("measured speedup over the plain model")
    axis.set_ylabel("PSNR, dB")
    axis.grid(alpha=0.25)
    axis.margins(0.06)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _spread(row: Row, what: str) -> float:
    """Standard deviation over seeds."""
    values = row.seed_psnr if what == "psnr" else row.seed_psnr_fine
    return statistics.stdev(values) if len(values) > 1 else 0.0
