"""`skipcache compare`: from two folders to a table, compare.json, and worst.png."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from skipcache.benchmarks.folders.files import as_tensor, samples_at
from skipcache.benchmarks.folders.measures import as_pictures, frechet, lpips, measure, missing, spread
from skipcache.benchmarks.folders.samples import write_samples
from skipcache.benchmarks.folders.worst import draw_worst
from skipcache.benchmarks.options.compare import CompareSettings
from skipcache.benchmarks.sampling.threads import use_threads
from skipcache.benchmarks.show.json_file import write_json
from skipcache.benchmarks.show.progress import progress_bar
from skipcache.benchmarks.show.tables import new_table

WORST = 10
Samples = Mapping[str, np.ndarray]
HEADINGS = {"psnr": ("PSNR dB", "{:.2f}"), "ssim": ("SSIM", "{:.4f}"), "lpips": ("LPIPS", "{:.4f}")}


def run_compare(settings: CompareSettings, console: Console) -> None:
    use_threads(settings.threads)
    a, b = samples_at(settings.a), samples_at(settings.b)
    names = sorted(set(a) & set(b))
    if not names:
        raise ValueError(
            f"expected samples of the same names in both, got {next(iter(a))}, ... in {settings.a} "
            f"and {next(iter(b))}, ... in {settings.b}; rename those of one"
        )
    left_out = {name: why for name in ("lpips", "fid") if (why := missing(name)) is not None}
    with progress_bar(console, "comparing", len(names)) as bar:
        rows, fid = measure_all(a, b, names, left_out, bar.advance)
    settings.out.mkdir(parents=True, exist_ok=True)
    worst = sorted((row for row in rows if row["psnr"] is not None), key=lambda row: row["psnr"])[:WORST]
    content = {
        "pairs": len(rows),
        "equal": sum(row["exact"] for row in rows),
        "without_a_partner": {"A": len(a) - len(rows), "B": len(b) - len(rows)},
        **{name: spread([row[name] for row in rows if row.get(name) is not None]) for name in HEADINGS},
        "fid": fid,
        "left_out": left_out,
        "worst": [row["name"] for row in worst],
        "rows": rows,
    }
    written = ["compare.json"]
    write_json(settings.out / "compare.json", settings, content)
    if worst:
        draw_worst(settings.out / "worst.png", [(row["name"], a[row["name"]], b[row["name"]]) for row in worst], worst)
        written.append("worst.png")
    for name, samples in (("A.npz", a), ("B.npz", b)) if settings.npz else ():
        write_samples(settings.out / name, samples)
        written.append(name)
    _print(console, content, f"Wrote {', '.join(written)} to {settings.out}/")


def measure_all(
    a: Samples, b: Samples, names: list[str], left_out: Mapping[str, str], on_pair: Any
) -> tuple[list[dict[str, Any]], float | None]:
    """A row for each pair, and FID between the pairs' two sides (None where it is left out)."""
    perceptual = None if "lpips" in left_out else lpips()
    distance = None if "fid" in left_out else frechet()
    rows = []
    for name in names:
        first, second = a[name], b[name]
        try:
            rows.append({"name": name, **measure(first, second, perceptual)})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if distance is not None:
            distance.update(as_pictures(as_tensor(first[..., :3])), real=False)
            distance.update(as_pictures(as_tensor(second[..., :3])), real=True)
        on_pair()
    return rows, None if distance is None else distance.compute().item()


def _print(console: Console, content: dict[str, Any], end: str) -> None:
    alone = content["without_a_partner"]
    console.print(_table(content))
    lines = [f"{content['equal']} of {content['pairs']} pairs are equal; PSNR is of the others."]
    if any(alone.values()):
        lines.append(f"Left out, since the other has no sample of the name: {alone['A']} of A, {alone['B']} of B.")
    if content["fid"] is not None:
        lines.append(f"FID {content['fid']:.2f}, of {content['pairs']} pairs.")
    lines += [f"{name.upper()} was not measured: {why}." for name, why in content["left_out"].items()]
    if content["worst"]:
        lines.append(f"Worst: {', '.join(content['worst'])}")
    console.print("\n".join([*lines, end]), highlight=False, markup=False, soft_wrap=True)


def _table(content: dict[str, Any]) -> Table:
    table = new_table(f"{content['pairs']} pairs")
    for heading in ("", "mean", "std", "least", "median", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (heading, form) in HEADINGS.items():
        found = content[name]
        if found is not None:
            table.add_row(heading, *(form.format(value) for value in found.values()))
    return table
