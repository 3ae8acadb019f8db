"""The docs' tables of `skipcache bench`, of its studies and of `skipcache overhead`, out of their result files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, stdev
from typing import Any

from skipcache.benchmarks.names.predictors import PREDICTORS, label_of
from skipcache.benchmarks.names.schedulers import STOCHASTIC
from skipcache.benchmarks.show.tables import markdown

Result = dict[str, Any]
Row = dict[str, Any]

SHOWN = (2, 3, 5)  # intervals of the README's table
SAMPLERS = {"ddim": "DDIM", "ddpm": "DDPM", "dpm++": "DPM++", "unipc": "UniPC", "euler": "Euler", "heun": "Heun"}
WAYS: dict[str | None, str] = {**{name: label_of(name) for name in PREDICTORS}, None: "fewer steps"}


def bench(results: Sequence[Result]) -> str:
    """The plain model, and by interval what people type, beside the plain model at as many block evaluations."""
    heads = ["", "full / cached steps", "block evaluations", "speedup", "ideal", "PSNR dB", "over fewer steps, dB"]
    tables = ""
    for result in results:
        lines = [[*_fidelity(row), _margin(row, result["rows"])] for row in _shown(result)]
        tables += markdown(heads, lines) + _facts(result)
    return tables or "\n"


def _facts(result: Result) -> str:
    """How the table was made."""
    settings, device = result["settings"], result["device"]
    threads = "1 thread" if device["threads"] == 1 else f"{device['threads']} threads"
    return (
        f"`{settings['model']}`, {settings['steps']} {settings['scheduler'].upper()} steps, "
        f"guidance {settings['guidance']:g}; {result['images']} images of {len(settings['seeds'])} seeds; "
        f"{device['name']}, {threads} on {device['cores']} cores; `{result['command']}`.\n\n"
    )


def bench_full(results: Sequence[Result]) -> str:
    """A table for each model: every row of the run, and those of the model beside it."""
    heads = ["full / cached steps", "block evaluations", "speedup", "ideal", "PSNR dB", "class accuracy"]
    tables = []
    for result in results:
        lines = [[*_fidelity(row), f"{row['class_accuracy']:.0%}"] for row in result["rows"]]
        for row in result["beside"]:
            label = f"{result['settings']['beside']}, {row['label']}"
            lines += [[label, *_fidelity(row)[1:], f"{row['class_accuracy']:.0%}"]] if row["interval"] else []
        tables.append(markdown([result["settings"]["model"], *heads], lines))
    return "".join(tables) or "\n"


def bench_predictors(results: Sequence[Result]) -> str:
    """For each model PSNR by interval and predictor, and that of the plain model with fewer steps."""
    tables = []
    for result in results:
        rows, lines = result["rows"], []
        for interval in sorted({row["group"] for row in rows if row["group"] > 1}):
            found = {row["predictor"]: row for row in rows if row["group"] == interval and not row["placed"]}
            lines.append([f"Interval({interval})", *(_psnr(found[name]) if name in found else "-" for name in WAYS)])
        tables.append(markdown([result["settings"]["model"], *WAYS.values()], lines))
    return "".join(tables) or "\n"


def _shown(result: Result) -> list[Row]:
    return [row for row in result["rows"] if row["group"] == 0 or (row["group"] in SHOWN and row["placed"])]


def _margin(row: Row, rows: Sequence[Row]) -> str:
    """By how much it keeps more than its rival, where the two can be compared."""
    rivals = (r["psnr"] for r in rows if r["interval"] is None and r["placed"] and r["group"] == row["group"])
    rival = next(rivals, None)
    return "" if row["interval"] is None else "-" if rival is None else f"{row['psnr'] - rival:+.1f}"


def _fidelity(row: Row) -> list[str]:
    warned = " !" if row["placed"] and row["notes"] else ""
    return [
        row["label"] + warned,
        f"{row['full_steps']} / {row['cached_steps']}",
        str(row["blocks"]),
        f"{row['speedup']:.2f}x",
        f"{row['ideal']:.2f}x",
        _psnr(row),
    ]


def _psnr(row: Row) -> str:
    if row["exact"]:
        return "exact"
    return "-" if row["psnr"] is None else f"{row['psnr']:.1f} ± {row['psnr_error']:.1f}"


def branches(results: Sequence[Result]) -> str:
    """By model and predictor PSNR at the intervals of the README, for each number of units kept."""
    return _branches(results, lambda settings: [(keep, i) for keep in settings["keep"] for i in SHOWN])


def branches_near(results: Sequence[Result]) -> str:
    return _branches(results, lambda settings: [(settings["keep"][0], i) for i in settings["intervals"]])


def branches_far(results: Sequence[Result]) -> str:
    return _branches(results, lambda settings: [(settings["keep"][-1], i) for i in settings["intervals"]])


Columns = Callable[[dict[str, Any]], list[tuple[int, int]]]  # settings -> (units kept, interval)


def _branches(results: Sequence[Result], columns: Columns) -> str:
    tables = ""
    for result in results:
        settings = result["settings"]
        chosen = columns(settings)
        lines = []
        for predictor in settings["predictors"]:
            for model in settings["models"]:
                psnr = {
                    (row["keep"], row["interval"]): row["psnr"]
                    for row in result["fidelity"]
                    if (row["model"], row["predictor"]) == (model, predictor)
                }
                lines.append([f"{model}, {label_of(predictor)}", *(_spread(psnr[place]) for place in chosen)])
        tables += markdown(["", *(f"keep={keep}, interval {i}" for keep, i in chosen)], lines)
    return tables or "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def branches_quality(results: Sequence[Result]) -> str:
    """What uncached samples are like."""
    lines = [
        [row["model"], f"{row['class_accuracy']:.1%}", ", ".join(f"{d:.2f}" for d in row["frechet"])]
        for result in results
        for row in result["quality"]
    ]
    return markdown(["", "class accuracy", "Frechet distance, two seeds"], lines) if lines else "\n"


def default(results: Sequence[Result]) -> str:
    """What `interval=` keeps, in brackets by how much more than fewer steps; ! where it warned."""
    tables = ""
    for result in results:
        intervals = result["settings"]["intervals"]
        found: dict[str, list[str]] = {}
        for cell in result["cells"]:
            margin = "other noise" if cell["scheduler"] in STOCHASTIC else f"{cell['margin']:+.1f}"
            shown = f"{mean(cell['psnr']):.1f} ({margin}){' !' if cell['warned'] else ''}"
            found.setdefault(_sampled(cell), []).append(shown)
        tables += markdown(["", *(f"interval={i}" for i in intervals)], [[name, *row] for name, row in found.items()])
    return tables or "\n"


def default_full(results: Sequence[Result]) -> str:
    """Beside the rule of the paper, which is `policy=Interval(n)`."""
    heads = ["", "full steps", "interval=", "fewer steps", "policy=Interval", "its block evaluations"]
    lines = [
        [
            f"{_sampled(cell)}, {cell['interval']}",
            f"{cell['full_steps']}{' !' if cell['warned'] else ''}",
            *(f"{mean(cell[name]):.1f}" for name in ("psnr", "fewer", "uniform")),
            f"{cell['uniform_blocks']:.0%}",
        ]
        for result in results
        for cell in result["cells"]
    ]
    return markdown(heads, lines) if lines else "\n"


def half(results: Sequence[Result]) -> str:
    """What the default keeps in half precision, and with R in float32."""
    tables = ""
    for result in results:
        dtype = result["settings"]["dtype"]
        heads = [
            "",
            f"the default in {dtype}",
            f"all in {dtype}",
            f"plain {dtype} against float32",
            "the default in float32",
        ]
        names = ("psnr", "wide", "precision", "float32")
        lines = [
            [f"{_sampled(cell)}, interval={cell['interval']}", *(f"{mean(cell[name]):.1f}" for name in names)]
            for cell in result["cells"]
        ]
        tables += markdown(heads, lines)
    return tables or "\n"


def promises(results: Sequence[Result]) -> str:
    """By model: what was promised for the share of nine in ten, and how often each promise was kept."""
    found = [one for result in results for one in result["models"]]
    if not found:
        return "\n"
    levels = [promise["level"] for promise in found[0]["promises"]]
    heads = ["", "ideal speedup", "bound at 90%", *(f"kept at {level:.0%}" for level in levels), "90%, other guidance"]
    lines = []
    for one in found:
        usual = next(promise for promise in one["promises"] if promise["level"] == 0.9)
        kept = [f"{promise['kept']:.1%}" for promise in one["promises"]]
        about = [_sampled(one), f"{one['speedup']:.2f}", f"{usual['bound']:.4f}"]
        lines.append([*about, *kept, f"{usual['kept_at_other_guidance']:.1%}"])
    return markdown(heads, lines)


def _sampled(cell: Row) -> str:
    return f"{cell['model']}, {SAMPLERS.get(cell['scheduler'], cell['scheduler'])} {cell['steps']}"


def overhead(results: Sequence[Result]) -> str:
    """By way to run: a call over a plain one, a cached one over its floor, and over the other version."""
    heads = ["", "first", "full", "cached", "cached over floor", "mean of a run", "mean over the other version"]
    tables = ""
    for result in results:
        against = {(one["way"], one["kind"]): f"{one['ratio']:.2f}" for one in result["against"]}
        found: dict[str, dict[str, Row]] = {}
        for row in result["rows"]:
            found.setdefault(f"{row['way']} ({row['version']})", {})[row["kind"]] = row
        lines = [[name, *_costs(kinds, against)] for name, kinds in found.items() if "cached" in kinds]
        tables += markdown(heads, lines) + f"`{result['command']}`.\n\n"
    return tables or "\n"


def _costs(kinds: dict[str, Row], against: dict[tuple[str, str], str]) -> Iterator[str]:
    yield from (f"{kinds[kind]['over_plain']:.3f}" for kind in ("first", "full", "cached"))
    yield f"{kinds['cached']['over_floor']:.2f}"
    yield f"{kinds['mean']['over_plain']:.3f}"
    here = kinds["mean"]["version"] == "this version"
    yield against.get((kinds["mean"]["way"], "mean"), "-") if here else "-"


def stability(results: Sequence[Result]) -> str:
    """The first, the middle and the last block of each model: mean change by step, and under noise on the input."""
    measures, blocks = ("change by step", "under noise"), ("first block", "middle", "last")
    heads = ["", *(f"{block}, {measure}" for measure in measures for block in blocks)]
    lines = [[found["model"], *_changes(found)] for result in results for found in result["models"]]
    return markdown(heads, lines) if lines else "\n"


def _changes(found: dict[str, Any]) -> Iterator[str]:
    for name in ("change", "perturbed"):
        rows = found[name]
        yield from (f"{mean(row):.2%}" for row in (rows[0], rows[len(rows) // 2], rows[-1]))
