"""The pairs that differ most, side by side, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from skipcache.benchmarks.folders.files import as_tensor
from skipcache.benchmarks.folders.measures import in_step
from skipcache.benchmarks.show.pictures import is_video, show, stills, strip

GAIN = 10  # differences are drawn this much stronger than they are


def draw_worst(path: Path, pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], rows: Sequence[dict[str, Any]]) -> None:
    """A row for each pair: A, B and their difference. Of videos the first, middle and last frame."""
    figure = Figure(figsize=(9, 2.6 * len(pairs) + 0.4), dpi=100, layout="constrained")
    axes = figure.subplots(len(pairs), 3, squeeze=False)
    for axis, title in zip(axes[0], ("A", "B", f"difference x {GAIN}")):
        axis.set_title(title, fontsize=11)
    for line, (name, *pair), row in zip(axes, pairs, rows):
        a, b = (as_tensor(x) for x in in_step(*pair))
        a, b = (strip(stills(x, 3) if is_video(x) else x) for x in (a, b))
        show(line[0], a, "gray")
        show(line[1], b, "gray")
        show(line[2], (0.5 + GAIN / 2 * (a - b)).clamp(0, 1), "RdBu")
        line[0].set_ylabel(f"{name[-24:]}\n{row['psnr']:.1f} dB", fontsize=9)
    figure.savefig(path)
