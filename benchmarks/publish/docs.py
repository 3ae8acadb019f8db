"""`skipcache publish`: the docs' tables out of result files, between markers, so that no figure is copied by hand.

`<!-- table: NAME -->` and `<!-- end -->` stand around each table in the files of `DOCS`; what is between them is
written anew. The results of `skipcache peers` are kept as docs/results/peers-MODEL-SCHEDULER.json, and those of
`skipcache engines` as benchmarks/results/DEVICE-PRESET.json. The results of `skipcache bench`, `evidence`, `default`,
`half`, `promises`, `analyze` and `overhead` are copied by hand, to docs/results/bench.json, evidence.json,
default.json, half.json, promises.json, stability.json and overhead.json; those of `skipcache bench` for another model
than dit-digits to bench-MODEL.json.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skipcache.benchmarks.engines.tables import engines
from skipcache.benchmarks.names.models import REFERENCES
from skipcache.benchmarks.names.schedulers import SCHEDULERS
from skipcache.benchmarks.publish.peers import Result, choices, full, headline, name_of, rows_of, summary
from skipcache.benchmarks.publish.studies import (
    bench,
    bench_full,
    bench_predictors,
    branches,
    branches_far,
    branches_near,
    branches_quality,
    default,
    default_full,
    half,
    overhead,
    promises,
    stability,
)
from skipcache.benchmarks.show.json_file import read_json

DOCS = ("README.md", "docs/evidence.md", "docs/notebook.md")
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(runs: Sequence[Path], root: Path) -> list[Path]:
    """Takes in the results and pictures of `runs`, folders of `skipcache peers`; gives the files written."""
    if not all((root / name).is_file() for name in DOCS):
        raise ValueError(f"--root: expected a checkout with {' and '.join(DOCS)}, got {root}; name its folder")
    written = [path for run in runs for path in _take_in(run, root)]
    for name in DOCS:
        text = (root / name).read_text()
        filled = fill(text, root)
        if filled != text:
            (root / name).write_text(filled)
            written.append(root / name)
    return written


def _take_in(run: Path, root: Path) -> Iterator[Path]:
    if not (run / "peers.json").is_file():
        raise ValueError(f"expected peers.json in {run}, found none; `skipcache peers --out {run}` makes it")
    name = name_of(_read_peers(run / "peers.json"))
    for source, target in (("peers.json", f"results/{name}.json"), ("frontier.png", f"images/{name}.png")):
        path = root / "docs" / target
        path.parent.mkdir(parents=True, exist_ok=True)
        yield Path(shutil.copyfile(run / source, path))


def _read_peers(path: Path) -> Result:
    """Raises ValueError for a file that `skipcache peers` did not write."""
    result = read_json(path)
    try:
        known = result["settings"]["model"] in REFERENCES and result["settings"]["scheduler"] in SCHEDULERS
        rows_of(result)
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected results of `skipcache peers` in {path}, got others: {error!r}") from error
    if not known:
        raise ValueError(f"expected a model and a sampler that are known in {path}, got {name_of(result)}")
    return result


def read_results(root: Path) -> list[Result]:
    """By model, and by sampler as these are listed in the settings."""
    found = [_read_peers(path) for path in (root / "docs" / "results").glob("peers-*.json")]
    order = list(SCHEDULERS)
    return sorted(found, key=lambda r: (r["settings"]["model"], order.index(r["settings"]["scheduler"])))


def read_engines(root: Path) -> list[Result]:
    """Of the presets, by the names of their files."""
    return [read_json(path) for path in sorted((root / "benchmarks" / "results").glob("*.json"))]


def read_bench(root: Path) -> list[Result]:
    """Of dit-digits first, then of the models in the files' names."""
    return [result for path in _bench_files(root) for result in _read_study(root, path.stem)]


def read_evidence(root: Path) -> list[Result]:
    return _read_study(root, "evidence")


def read_default(root: Path) -> list[Result]:
    return _read_study(root, "default")


def read_half(root: Path) -> list[Result]:
    return _read_study(root, "half")


def read_promises(root: Path) -> list[Result]:
    return _read_study(root, "promises")


def read_overhead(root: Path) -> list[Result]:
    return _read_study(root, "overhead")


def read_stability(root: Path) -> list[Result]:
    return _read_study(root, "stability")


def _bench_files(root: Path) -> list[Path]:
    return sorted((root / "docs" / "results").glob("bench*.json"), key=lambda path: path.stem)


def _read_study(root: Path, name: str) -> list[Result]:
    path = root / "docs" / "results" / f"{name}.json"
    return [read_json(path)] if path.is_file() else []


def default_engines(results: Sequence[Result]) -> str:
    """What steps cost on either engine, of the default predictor alone."""
    kept = [{**result, "rows": [r for r in result["rows"] if r["predictor"] == "damped"]} for result in results]
    return engines([result for result in kept if result["rows"]])


def fill(text: str, root: Path) -> str:
    """`text` with every marked table written anew; raises ValueError for a table that nothing makes."""

    results = {read: read(root) for read in dict.fromkeys(read for read, _ in TABLES.values())}

    def table(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"table: expected one of {', '.join(TABLES)}, got {name!r}; correct the marker")
        read, write = TABLES[name]
        return f"{start}{write(results[read])}{end}"

    return MARKED.sub(table, text)


TABLES: dict[str, tuple[Callable[[Path], list[Result]], Callable[[Sequence[Result]], str]]] = {
    "peers": (read_results, headline),
    "peers-summary": (read_results, summary),
    "peers-full": (read_results, full),
    "engines": (read_engines, engines),
    "engines-default": (read_engines, default_engines),
    "choices": (read_results, choices),
    "bench": (read_bench, bench),
    "bench-full": (read_bench, bench_full),
    "bench-predictors": (read_bench, bench_predictors),
    "branches": (read_evidence, branches),
    "branches-near": (read_evidence, branches_near),
    "branches-far": (read_evidence, branches_far),
    "branches-quality": (read_evidence, branches_quality),
    "default": (read_default, default),
    "default-full": (read_default, default_full),
    "half": (read_half, half),
    "overhead": (read_overhead, overhead),
    "promises": (read_promises, promises),
    "stability": (read_stability, stability),
}
